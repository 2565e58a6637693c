import { describe, expect, test } from 'vitest';
import { mergeConfig } from '#src/container/merge-config.js';
import { containmentToJson, parseContainment } from '#src/container/spec-json.js';

const odd = Buffer.from('a\xff\xc3b', 'latin1');
const containment = {
  fixedDisks: 1,
  rootfs: { path: '/image', config: { Cmd: ['sh'] }, scratch: false },
  main: mergeConfig(
    { Env: ['FROM=image'] },
    { argv: ['sh', odd], env: { VALUE: odd }, cwd: Buffer.concat([Buffer.from('/'), odd]) },
  ),
};
const asJson = () => JSON.parse(JSON.stringify(containmentToJson(containment)));

describe('what a snapshot remembers of a container', () => {
  test('comes back from JSON as it was, bytes that are no text included', () => {
    expect(parseContainment(asJson())).toEqual(containment);
  });

  test.each([
    ['argv', [{ base64: '?' }]],
    ['argv', [{ base64: Buffer.from('a\0').toString('base64') }]],
    ['argv', [{ hex: 'ff' }]],
    ['argv', []],
    ['env', ['A=\0']],
    ['cwd', 5],
  ])('is refused with a wrong %s %#', (name, value) => {
    const json = asJson();
    json.main[name] = value;
    expect(() => parseContainment(json)).toThrow(
      expect.objectContaining({ code: 'VMF_SNAPSHOT_INVALID' }),
    );
  });
});
