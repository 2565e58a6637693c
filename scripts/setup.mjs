// Installs what the project needs beside npm packages: `node scripts/setup.mjs [build guest test bench]`.
// Asks dpkg first, so it is instant and needs no network when everything is there.
import { existsSync } from 'node:fs';
import { isCheckout, root } from './lib/project.mjs';
import { Failure, main, mustRun, run, step } from './lib/run.mjs';

const groups = {
  build: ['g++', 'make', 'python3'],
  guest: [
    'bc',
    'bison',
    'busybox-static',
    'e2fsprogs',
    'erofs-utils',
    'flex',
    'gcc',
    'libelf-dev',
    'linux-libc-dev',
    'linux-source-6.1',
    'make',
    'musl-tools',
    'xz-utils',
  ],
  test: [
    'attr',
    'ccache',
    'clang-19',
    'clang-format-19',
    'clang-tidy-22',
    'cmake',
    'docker-registry',
    'erofs-utils',
    'busybox-static',
    'libclang-rt-19-dev',
    'mmdebstrap',
    'mold',
    'openssl',
    'qemu-system-x86',
    'skopeo',
    'squashfs-tools',
    'umoci',
    'util-linux',
    'zstd',
  ],
  bench: ['cmake', 'mmdebstrap', 'qemu-system-x86', 'zstd'],
};

/** Makes sure that the packages of these groups are there; the note says how many had to be installed. */
export async function setUp(names) {
  const wanted = [...new Set(names.flatMap((name) => groups[name]))];
  if (!existsSync('/usr/bin/dpkg-query')) return checkCommands();
  const missing = await missingPackages(wanted);
  if (missing.length === 0) return 'nothing to install';
  const command = `apt-get install --no-install-recommends ${missing.join(' ')}`;
  if (process.getuid() !== 0) {
    throw new Failure(`these Debian packages are missing; as root: ${command}`);
  }
  await install(missing);
  return `installed ${missing.length} packages`;
}

async function missingPackages(wanted) {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders.
  const format = '${Package} ${db:Status-Status}\\n';
  const { output } = await run('dpkg-query', ['-W', '-f', format, ...wanted]);
  const installed = new Set(output.split('\n').filter((line) => line.endsWith(' installed')));
  return wanted.filter((name) => !installed.has(`${name} installed`));
}

async function install(packages) {
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const apt = ['-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3'];
  console.error(`  installing ${packages.join(' ')}`);
  await mustRun('apt-get', [...apt, 'update'], { env });
  const flags = ['install', '-y', '--no-install-recommends', ...packages];
  await mustRun('apt-get', [...apt, ...flags], { env });
}

/** Not a Debian: packages have other names there, so only the tools themselves can be asked for. */
async function checkCommands() {
  const tools = ['g++', 'make', 'python3', 'bc', 'bison', 'flex', 'xz', 'mkfs.erofs'];
  const found = await Promise.all(tools.map((tool) => run('which', [tool])));
  const missing = tools.filter((_, index) => found[index].code !== 0);
  if (missing.length > 0) throw new Failure(`install these programs first: ${missing.join(', ')}`);
  return 'not Debian; tools found';
}

/** Installs the npm packages of the lock file when a fresh clone has none. */
export async function installPackages() {
  if (!isCheckout || existsSync(`${root}/node_modules/.package-lock.json`)) return 'present';
  await mustRun('npm', ['ci', '--no-audit', '--no-fund']);
  return 'npm ci';
}

if (process.argv[1] === import.meta.filename) {
  const names = process.argv.slice(2);
  const unknown = names.filter((name) => !groups[name]);
  await main(() => {
    if (unknown.length > 0) {
      throw new Failure(`no such group: ${unknown}; groups: ${Object.keys(groups).join(', ')}`);
    }
    return step('system packages', () => setUp(names.length > 0 ? names : Object.keys(groups)));
  });
}
