#!/usr/bin/env node
// The command line `vmfork`: reads arguments and hands over to one file per verb. Results go to standard output, the rest
// to standard error.

import { Command, InvalidArgumentError, Option } from 'commander';
import { VERSION } from '../version.js';
import { bench } from './bench.js';
import { demo } from './demo.js';
import { doctor } from './doctor.js';
import { type ExecCliOptions, exec } from './exec.js';
import { EXIT, EXIT_HELP } from './exit-codes.js';
import { describeFailure, failureToJson } from './failure.js';
import { images, importImage, inspect, pull, rmi } from './images.js';
import { note, printJson } from './output.js';

const JSON_OPTION = '--json';
const JSON_HELP = 'print one JSON document and nothing else';
const MOST_TIMEOUT_MS = 0x7fff_ffff;

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
  .action((image: string) => conclude(() => inspect(image), { json: true }));

try {
  await program.parseAsync();
} catch (error) {
  // commander has printed what is wrong, or the help that was asked for.
  const { exitCode } = error as { exitCode?: number };
  if (exitCode === undefined) throw error;
  process.exitCode = exitCode === 0 ? EXIT.ok : EXIT.usage;
}

/** Runs a verb and turns what it throws into a message. */
async function conclude(verb: () => Promise<number>, options: { json?: boolean }): Promise<void> {
  try {
    process.exitCode = await verb();
  } catch (error) {
    if (options.json) printJson(failureToJson(error));
    else note(describeFailure(error));
    process.exitCode = EXIT.failed;
  }
}

function collectEnv(text: string, before: Record<string, string>): Record<string, string> {
  const at = text.indexOf('=');
  const name = at < 0 ? text : text.slice(0, at);
  if (name === '') throw new InvalidArgumentError('must be NAME=value or NAME');
  const value = at < 0 ? process.env[name] : text.slice(at + 1);
  return value === undefined ? before : { ...before, [name]: value };
}

function parseInteger(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new InvalidArgumentError('must be a positive integer');
}

function parseTimeout(text: string): number {
  const value = parseInteger(text);
  if (value <= MOST_TIMEOUT_MS) return value;
  throw new InvalidArgumentError(`must be at most ${MOST_TIMEOUT_MS}`);
}
