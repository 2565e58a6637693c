import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  assertLegal,
  mayGo,
  OPERATIONS,
  type Operation,
  TRANSITIONS,
  type VmState,
} from '#src/kvm/lifecycle.js';

const states = Object.keys(TRANSITIONS) as VmState[];
const page = readFileSync('docs/lifecycle.md', 'utf8');

function tableOf(page: string, cells: number): Map<string, string[]> {
  const rows = page
    .split('\n')
    .filter((line) => line.startsWith('| `') && line.split('|').length === cells + 2);
  return new Map(
    rows.map((row) => {
      const [name = '', values = ''] = row.split('|').slice(1);
      return [
        name.trim().replaceAll('`', ''),
        [...values.matchAll(/`(\w+)`/g)].map(([, value]) => String(value)),
      ];
    }),
  );
}

describe('docs/lifecycle.md', () => {
  test('shows the transitions of the code', () => {
    expect(Object.fromEntries(tableOf(page, 3))).toEqual(TRANSITIONS);
  });

  test('shows the operations of the code', () => {
    expect(Object.fromEntries(tableOf(page, 2))).toEqual(OPERATIONS);
  });
});

test('every state can be destroyed, and nothing comes back from the dead', () => {
  for (const from of states.filter((state) => state !== 'destroyed')) {
    expect(mayGo(from, 'destroyed'), from).toBe(true);
  }
  for (const to of states) {
    expect(mayGo('destroyed', to)).toBe(false);
    expect(mayGo('ended', to)).toBe(to === 'destroyed');
  }
});

const cases = (Object.keys(OPERATIONS) as Operation[]).flatMap((operation) =>
  states.map((state): [Operation, VmState] => [operation, state]),
);

test.each(cases)('%s in state %s is legal or VMF_STATE, by the table', (operation, state) => {
  const check = () => assertLegal(operation, state);
  if ((OPERATIONS[operation] as readonly VmState[]).includes(state)) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ code: 'VMF_STATE', operation }));
});
