// The micro-benchmarks as a case. Their package is for development only, so it is loaded when they are asked for.

import type { BenchCase } from '../harness/case.js';

export const micro: BenchCase = {
  name: 'micro',
  summary: 'JavaScript and addon calls on the way of a fork, per operation (ignores --n)',
  defaultN: 1,
  async measure(run) {
    const { measure } = await import('../micro/micro.js');
    return measure(run);
  },
};
