#!/usr/bin/env node
// The command line `vmfork`: reads arguments and hands over to one file per verb. Results go to standard output, the rest
// to standard error.

import { Command, type CommanderError, Option } from 'commander';
import { VERSION } from '../version.js';
import {
  collect,
  collectEnv,
  collectTmpfs,
  parseCpus,
  parseInteger,
  parseMiB,
  parseTimeout,
} from './arguments.js';
import { bench } from './bench.js';
import { demo } from './demo.js';
import { doctor } from './doctor.js';
import { type ExecCliOptions, exec } from './exec.js';
import { EXIT, EXIT_HELP } from './exit-codes.js';
import { describeFailure, failureToJson } from './failure.js';
import { images, importImage, inspect, pull, rmi } from './images.js';
import { note, printJson } from './output.js';
import { type RunCliOptions, run } from './run.js';
import { createSnapshot, listSnapshots, removeSnapshots } from './snapshots.js';

const JSON_OPTION = '--json';
// What commander ends with when the command line is wrong.
const USAGE = 1;
const JSON_HELP = 'print one JSON document and nothing else';

const program = new Command('vmfork')
  .description('Boots a Linux guest on /dev/kvm once, then forks it.')
  .version(VERSION)
  .addHelpText('after', EXIT_HELP)
  .enablePositionalOptions()
  .exitOverride()
  .showHelpAfterError('(vmfork --help tells more)');

program
  .command('doctor')
  .description('look at everything a fork depends on, and say what to fix')
  .option(JSON_OPTION, JSON_HELP)
  .action((options) => conclude(() => doctor(options), options));

program
  .command('demo')
  .description('fork twenty machines, run a command in each, and show what it cost')
  .option(JSON_OPTION, JSON_HELP)
  .action((options) => conclude(() => demo(options), options));

program
  .command('bench')
  .description('run the benchmarks; `vmfork bench --help` lists the cases')
  .argument('[arguments...]', 'case and options, as of `npm run bench`')
  .helpOption(false)
  .allowUnknownOption()
  .passThroughOptions()
  .action((args: string[]) => conclude(() => bench(args), {}));

program
  .command('exec')
  .exitOverride(asForItsCommand)
  .description('fork once, run a command, end with its exit code')
  .usage('[options] -- command [arguments...]')
  .argument('<command...>', 'the command and its arguments')
  .passThroughOptions()
  .option('-t, --tty', 'give the command a terminal of the size of this one')
  .option(
    '-e, --env <name[=value]>',
    'set a variable, or pass on one of ours; repeatable',
    collectEnv,
    {},
  )
  .option('--cwd <path>', 'working directory in the guest')
  .option('--timeout-ms <ms>', 'kill the command after so many milliseconds', parseTimeout)
  .option('--memory-mib <mib>', 'guest memory, default 128', parseInteger)
  .addOption(new Option(JSON_OPTION, 'print the result as one JSON document').conflicts('tty'))
  .addHelpText('after', EXIT_HELP)
  .action((argv: string[], options: ExecCliOptions) =>
    conclude(() => exec(argv, options), options),
  );

program
  .command('run')
  .exitOverride(asForItsCommand)
  .description('run a container in a machine of its own; `busybox` is there without a registry')
  .argument('<image>', 'name of the image; pulled when it is not in the store')
  .argument('[command...]', "instead of the image's command")
  .passThroughOptions()
  .option('-i, --interactive', 'pass our standard input on')
  .option('-t, --tty', 'give the container a terminal of the size of this one')
  .option('-e, --env <name[=value]>', 'set a variable, or pass on one of ours', collectEnv, {})
  .option('-w, --workdir <path>', 'working directory in the container')
  .option('-u, --user <user>', 'name, uid, name:group or uid:gid')
  .option('-m, --memory <size>', 'memory of the machine, e.g. 256m or 1g; default 128m', parseMiB)
  .option('--cpus <count>', 'processors of the machine, up to 8, rounded up; default 1', parseCpus)
  .option('--disk <size>', 'keep what is written on a scratch disk instead of memory', parseMiB)
  .option('--entrypoint <program>', "instead of the image's; empty for none")
  .option('--read-only', 'the root filesystem cannot be written')
  .option('--tmpfs <path[:options]>', 'mount a filesystem in memory; repeatable', collectTmpfs)
  .option('--init', 'put an init process first that collects orphans')
  .option('--privileged', 'all capabilities')
  .option('--cap-add <name>', 'add a capability; repeatable', collect)
  .option('--cap-drop <name>', 'take a capability away; repeatable', collect)
  .addOption(
    new Option('--no-warm', 'do not warm the image in the background for later runs').env(
      'VMFORK_NO_WARM',
    ),
  )
  .addOption(new Option(JSON_OPTION, 'print the result as one JSON document').conflicts('tty'))
  .addHelpText('after', EXIT_HELP)
  .action((image: string, argv: string[], options: RunCliOptions) =>
    conclude(() => run(image, argv, options), options),
  );

const snapshot = program
  .command('snapshot')
  .description('keep images attached and warm, for `vmfork run` to fork');
snapshot
  .command('create')
  .description('warm an image')
  .argument('<image>', 'name of the image')
  .option('-m, --memory <size>', 'memory of the machine; default 128m', parseMiB)
  .option('--cpus <count>', 'processors of the machine, rounded up; default 1', parseCpus)
  .option(JSON_OPTION, JSON_HELP)
  .action((image: string, options) => conclude(() => createSnapshot(image, options), options));
snapshot
  .command('ls')
  .description('list what is warm')
  .option(JSON_OPTION, JSON_HELP)
  .action((options) => conclude(() => listSnapshots(options), options));
snapshot
  .command('rm')
  .description('remove what is warm')
  .argument('<id...>', 'as `vmfork snapshot ls` shows them')
  .option(JSON_OPTION, JSON_HELP)
  .action((ids: string[], options) => conclude(() => removeSnapshots(ids, options), options));

program
  .command('pull')
  .description('get an image from its registry')
  .argument('<image>', 'name as for docker pull: alpine, host:port/name:tag, name@sha256:…')
  .option('--platform <os/arch>', 'default linux/amd64')
  .option('--insecure', 'accept plain HTTP and unverified certificates')
  .option(JSON_OPTION, JSON_HELP)
  .action((image: string, options) => conclude(() => pull(image, options), options));

program
  .command('import')
  .description('take an image from an OCI layout (folder or tar) or what docker save wrote')
  .argument('<path>', 'the folder or file')
  .option('--reference <name>', 'name to give it, or to choose from an archive of several')
  .option('--platform <os/arch>', 'default linux/amd64')
  .option(JSON_OPTION, JSON_HELP)
  .action((path: string, options) => conclude(() => importImage(path, options), options));

program
  .command('images')
  .description('list the images in the store')
  .option(JSON_OPTION, JSON_HELP)
  .action((options) => conclude(() => images(options), options));

program
  .command('rmi')
  .description('forget images, and free what nothing else uses')
  .argument('<image...>', 'names, or digests of manifests')
  .option(JSON_OPTION, JSON_HELP)
  .action((names: string[], options) => conclude(() => rmi(names, options), options));

program
  .command('inspect')
  .description('show an image as JSON: layers, and how it says it is run')
  .argument('<image>', 'name, or digest of a manifest')
  .option(JSON_OPTION, `${JSON_HELP}, as without it; failures too`)
  .action((image: string) => conclude(() => inspect(image), { json: true }));

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => onOutputFailure(stream, error));
}
try {
  await program.parseAsync();
} catch (error) {
  // commander has printed what is wrong, or the help that was asked for.
  const { exitCode } = error as { exitCode?: number };
  if (exitCode === undefined) throw error;
  process.exitCode = exitCode === USAGE ? EXIT.usage : exitCode;
}

/** A code below 125 would be the command's that was to be run. */
function asForItsCommand(error: CommanderError): never {
  if (error.exitCode === USAGE) error.exitCode = EXIT.execFailed;
  throw error;
}

/** Runs a verb and turns what it throws into a message. */
async function conclude(verb: () => Promise<number>, options: { json?: boolean }): Promise<void> {
  try {
    const code = await verb();
    process.exitCode ||= code;
  } catch (error) {
    if (options.json) printJson(failureToJson(error));
    else note(describeFailure(error));
    process.exitCode = EXIT.failed;
  }
}

/** Results that nobody reads any more are not worth a stack, nor is a full disk; the exit code tells of both. */
function onOutputFailure(stream: NodeJS.WriteStream, error: NodeJS.ErrnoException): void {
  // What a command in a guest writes is looked after where it is passed on.
  if (stream.listenerCount('error') > 1 || stream === process.stderr) return;
  if (error.code !== 'EPIPE') note(`vmfork: standard output: ${error.message}`);
  process.exitCode = error.code === 'EPIPE' ? EXIT.unread : EXIT.failed;
}
