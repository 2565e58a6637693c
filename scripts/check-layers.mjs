// The order of the core's layers, the completeness of its source list, and no import cycles in src/.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { listFiles } from './lib/files.mjs';
import { root } from './lib/project.mjs';
import { main, runCheck } from './lib/run.mjs';

// A file may include only from its own layer and those before it.
const layers = ['base', 'memory', 'kvm', 'boot', 'devices', 'vcpu', 'snapshot', 'vm', 'binding'];

const read = (path) => readFileSync(join(root, path), 'utf8');

export const checkLayers = () => [...checkIncludes(), ...checkSourceList(), ...checkCycles()];

function checkIncludes() {
  const isLayered = (path) => /\.(cc|h)$/.test(path) && layers.includes(path.split('/')[1]);
  return listFiles('native', isLayered).flatMap((path) => {
    const layer = path.split('/')[1];
    const text = read(path);
    const problems = [];
    for (const [, included] of text.matchAll(/^\s*#include "([^"]+)"/gm)) {
      const other = included.split('/')[0];
      if (!layers.includes(other)) problems.push(`${path}: "${included}" does not name its layer`);
      else if (layers.indexOf(other) > layers.indexOf(layer)) {
        problems.push(`${path}: ${layer} includes ${included}, a layer above it`);
      }
    }
    if (layer !== 'binding' && /#include <(napi|node_api|node)/.test(text)) {
      problems.push(`${path}: Node's headers belong to binding/ only`);
    }
    if (layer !== 'kvm' && /\bioctl\([^;]*\bKVM_/.test(text)) {
      problems.push(`${path}: KVM ioctls belong to kvm/ only`);
    }
    return problems;
  });
}

function checkSourceList() {
  const { core, binding } = JSON.parse(read('native/sources.json'));
  const listed = new Set([...core, ...binding].map((path) => `native/${path}`));
  const present = listFiles('native', (path) => path.endsWith('.cc')).filter((path) =>
    layers.includes(path.split('/')[1]),
  );
  return [
    ...present.filter((path) => !listed.has(path)).map((path) => `${path}: not in sources.json`),
    ...[...listed].filter((path) => !present.includes(path)).map((path) => `${path}: missing`),
    ...core.filter((path) => path.startsWith('binding/')).map((path) => `${path}: not core`),
  ];
}

/** Imports of values only: a type import leaves nothing to load, so it cannot make a cycle. */
function checkCycles() {
  const imports = new Map();
  for (const path of listFiles('src', (file) => file.endsWith('.ts'))) {
    const found = read(path).matchAll(/^(?:import|export)(?! type\b)[^;]*?from '(\.[^']+)'/gm);
    imports.set(
      path,
      [...found].map(([, to]) => join(dirname(path), to).replace(/\.js$/, '.ts')),
    );
  }
  const done = new Set();
  const problems = [];
  const visit = (path, trail) => {
    if (trail.includes(path)) {
      problems.push(`import cycle: ${[...trail.slice(trail.indexOf(path)), path].join(' -> ')}`);
    } else if (!done.has(path)) {
      for (const next of imports.get(path) ?? []) visit(next, [...trail, path]);
      done.add(path);
    }
  };
  for (const path of imports.keys()) visit(path, []);
  return problems;
}

if (process.argv[1] === import.meta.filename) await main(() => runCheck(checkLayers));
