// The kernel's configuration: every fragment in config/ merged over allnoconfig, and the proof that each request held.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib/project.mjs';

const fragmentFolder = join(root, 'guest/kernel/config');

/** All fragments in order of their names; a symbol asked for twice is an error, the later would hide the earlier. */
export function readFragments() {
  const requests = new Map();
  const names = readdirSync(fragmentFolder).filter((name) => name.endsWith('.config'));
  for (const name of names.sort()) {
    for (const [symbol, value] of parse(readFileSync(join(fragmentFolder, name), 'utf8'))) {
      if (requests.has(symbol)) throw new Error(`${symbol} is requested twice, again in ${name}`);
      requests.set(symbol, value);
    }
  }
  return requests;
}

/** [symbol, value] pairs of a .config or fragment; "is not set" reads as n. */
export function parse(text) {
  return text.split('\n').flatMap((line) => {
    const set = /^(CONFIG_\w+)=(.*)$/.exec(line);
    if (set) return [[set[1], set[2]]];
    const unset = /^# (CONFIG_\w+) is not set$/.exec(line);
    return unset ? [[unset[1], 'n']] : [];
  });
}

export const render = (requests) =>
  [...requests].map(([symbol, value]) => `${symbol}=${value}\n`).join('');

/** Requests that the configured kernel does not have as asked: Kconfig drops unmet ones silently. */
export function unmet(requests, configText) {
  const result = new Map(parse(configText));
  return [...requests]
    .filter(([symbol, value]) => (result.get(symbol) ?? 'n') !== value)
    .map(([symbol, value]) => `${symbol}: asked ${value}, got ${result.get(symbol) ?? 'n'}`);
}
