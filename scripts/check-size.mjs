// No hand-written file over 400 lines, no function over 60: the longest are where the trouble lives.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { listFiles } from './lib/files.mjs';
import { root } from './lib/project.mjs';
import { main, runCheck } from './lib/run.mjs';
import { functions } from './lib/scan.mjs';

const maxFileLines = 400;
const maxFunctionLines = 60;

// Exceptions, each with its reason: path, or path#function.
const allowed = new Map([]);

const folders = ['native', 'src', 'bench', 'examples', 'guest', 'scripts', 'test'];
const isCode = (path) => /\.(cc|h|c|ts|mjs)$/.test(path) && !path.includes('/build/');

export function checkSize() {
  return folders.flatMap((folder) => listFiles(folder, isCode)).flatMap(measure);
}

function measure(path) {
  const text = readFileSync(join(root, path), 'utf8');
  const problems = [];
  const lines = text.split('\n').length - 1;
  if (lines > maxFileLines && !allowed.has(path)) {
    problems.push(`${path}: ${lines} lines, more than ${maxFileLines}`);
  }
  const language = /\.(cc|h|c)$/.test(path) ? 'c++' : 'typescript';
  for (const { name, line, lines: length } of functions(text, language)) {
    if (length > maxFunctionLines && !allowed.has(`${path}#${name}`)) {
      problems.push(`${path}:${line}: ${name} has ${length} lines, more than ${maxFunctionLines}`);
    }
  }
  return problems;
}

if (process.argv[1] === import.meta.filename) await main(() => runCheck(checkSize));
