// Who waits where, by what a hostile agent may say; and the bytes of a payload.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { encodePayload, ForkPoints, MAX_WAITING } from '#src/exec/fork-point.js';
import { FrameType } from '#src/exec/frames.js';
import { encodeTlvs, Tag } from '#src/exec/tlv.js';

const frame = (payload: Buffer, aux = 0) => ({
  type: FrameType.FORK_POINT,
  stream: 0,
  aux,
  value: 0,
  payload,
});
const named = (name: string, aux = 0) => frame(encodeTlvs([[Tag.FORK_POINT, name]]), aux);

describe('ForkPoints', () => {
  test('keeps the names that came and have not left, in order', () => {
    const names = fc.constantFrom('a', 'b', 'c');
    const steps = fc.array(fc.record({ name: names, left: fc.boolean() }), { maxLength: 60 });
    fc.assert(
      fc.property(steps, (list) => {
        const points = new ForkPoints(['a']);
        const model = ['a'];
        for (const { name, left } of list) {
          const index = model.indexOf(name);
          const legal = left ? index >= 0 : model.length < MAX_WAITING;
          const update = () => points.update(named(name, left ? 1 : 0));
          if (!legal) expect(update).toThrow(expect.objectContaining({ code: 'VMF_PROTOCOL' }));
          else expect(update()).toBe(left ? null : name);
          if (legal && left) model.splice(index, 1);
          else if (legal) model.push(name);
          expect(points.names).toEqual(model);
        }
      }),
      { seed: 7 },
    );
  });

  test('any bytes are a name or VMF_PROTOCOL', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.boolean(), (bytes, asName) => {
        const payload = asName ? encodeTlvs([[Tag.FORK_POINT, bytes]]) : Buffer.from(bytes);
        const points = new ForkPoints();
        try {
          expect(points.update(frame(payload))).toMatch(/^[A-Za-z0-9._-]{1,64}$/);
        } catch (error) {
          expect(error).toMatchObject({ code: 'VMF_PROTOCOL' });
          expect(points.names).toEqual([]);
        }
      }),
      { seed: 8 },
    );
  });

  test('chooses who has waited longest, or by name', () => {
    const points = new ForkPoints(['one', 'two', 'two']);
    expect(points.choose(undefined)).toBe('one');
    expect(points.choose('two')).toBe('two');
    expect(() => points.choose('three')).toThrow(/three; waiting: one, two, two/);
    expect(() => new ForkPoints().choose(undefined)).toThrow(/nobody waits/);
  });
});

test('a payload is counts, strings with NUL, data', () => {
  const text = fc.string({ unit: 'binary' }).map((value) => value.replaceAll('\0', ''));
  const bytes = fc.uint8Array();
  fc.assert(
    fc.property(
      fc.array(text),
      fc.dictionary(fc.constantFrom('A', 'B'), text),
      bytes,
      (...given) => {
        const [argv, env, data] = given;
        const encoded = encodePayload({ argv, env, data });
        const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
        const strings = Buffer.from([...argv, ...variables].map((part) => `${part}\0`).join(''));
        expect(encoded.readUInt32LE(0)).toBe(argv.length);
        expect(encoded.readUInt32LE(4)).toBe(variables.length);
        expect(encoded.subarray(8, 8 + strings.length).equals(strings)).toBe(true);
        expect(encoded.subarray(8 + strings.length).equals(data)).toBe(true);
      },
    ),
    { seed: 9, numRuns: 30 },
  );
});
