// The documents against the code: the table of error codes, links to local files, the README's length.
// --write: brings the table in docs/errors.md up to date with src/errors.ts (needs a build).
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { listFiles } from './lib/files.mjs';
import { root } from './lib/project.mjs';
import { main, runCheck } from './lib/run.mjs';

const maxReadmeLines = 150;
const errorsPage = join(root, 'docs/errors.md');
const begin = '<!-- table: generated from src/errors.ts by scripts/check-docs.mjs --write -->';
const end = '<!-- end of table -->';

export async function checkDocs() {
  return [...(await checkErrorTable()), ...checkLinks(), ...checkReadme()];
}

async function errorTable() {
  const { ERROR_CODES } = await import(join(root, 'dist/errors.js'));
  const cell = (text) => text.replaceAll('|', '\\|');
  const rows = Object.entries(ERROR_CODES)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([code, { summary, hint }]) => `| \`${code}\` | ${cell(summary)} | ${cell(hint)} |`);
  return ['| code | what happened | what to do |', '| --- | --- | --- |', ...rows].join('\n');
}

async function checkErrorTable() {
  if (!existsSync(errorsPage)) return ['docs/errors.md: missing'];
  const page = readFileSync(errorsPage, 'utf8');
  const table = page.slice(page.indexOf(begin) + begin.length, page.indexOf(end)).trim();
  if (table === (await errorTable())) return [];
  return [
    'docs/errors.md: not the table of src/errors.ts; run node scripts/check-docs.mjs --write',
  ];
}

async function writeErrorTable() {
  const page = existsSync(errorsPage)
    ? readFileSync(errorsPage, 'utf8')
    : `# Error codes\n\n${begin}\n${end}\n`;
  const before = page.slice(0, page.indexOf(begin) + begin.length);
  writeFileSync(errorsPage, `${before}\n${await errorTable()}\n${page.slice(page.indexOf(end))}`);
}

function checkLinks() {
  const isPage = (path) => path.endsWith('.md') && !path.startsWith('docs/api/');
  const pages = [...listFiles('docs', isPage), ...listFiles('guest', isPage), ...rootPages()];
  return pages.flatMap((page) => {
    const text = readFileSync(join(root, page), 'utf8').replace(/```[\s\S]*?```/g, '');
    return [...text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)]
      .map(([, target]) => target)
      .filter((target) => !/^[a-z]+:/.test(target))
      .filter((target) => !existsSync(join(root, dirname(page), target)))
      .map((target) => `${page}: broken link to ${target}`);
  });
}

const rootPages = () =>
  ['README', 'ARCHITECTURE', 'SPECIFICATION', 'CHANGELOG', 'CONTRIBUTING', 'SECURITY']
    .map((name) => `${name}.md`)
    .filter((path) => existsSync(join(root, path)));

function checkReadme() {
  const path = join(root, 'README.md');
  if (!existsSync(path)) return ['README.md: missing'];
  const lines = readFileSync(path, 'utf8').split('\n').length - 1;
  return lines > maxReadmeLines ? [`README.md: ${lines} lines, more than ${maxReadmeLines}`] : [];
}

if (process.argv[1] === import.meta.filename) {
  await main(() => (process.argv.includes('--write') ? writeErrorTable() : runCheck(checkDocs)));
}
