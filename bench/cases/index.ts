// All benchmark cases, in the order that `all` runs them.

import type { BenchCase } from '../harness/case.js';

import { attach } from './attach.js';
import { boot } from './boot.js';
import { branch } from './branch.js';
import { cliRun } from './cli-run.js';
import { container } from './container.js';
import { density } from './density.js';
import { exec } from './exec.js';
import { firstResponse } from './first-response.js';
import { fork } from './fork.js';
import { depth, history, live, size } from './growth.js';
import { hundred } from './hundred.js';
import { imageBuild } from './image-build.js';
import { memory } from './memory.js';
import { micro } from './micro.js';
import { pageSharing } from './page-sharing.js';
import { peerQemu } from './peer-qemu.js';
import { reset } from './reset.js';
import { saveLoad } from './save-load.js';
import { soak } from './soak.js';
import { storm } from './storm.js';
import { stream } from './stream.js';
import { throughput } from './throughput.js';
import { warmPython } from './warm-python.js';

export const CASES: readonly BenchCase[] = [
  micro,
  boot,
  fork,
  firstResponse,
  exec,
  memory,
  hundred,
  storm,
  density,
  throughput,
  branch,
  reset,
  saveLoad,
  size,
  depth,
  live,
  history,
  stream,
  imageBuild,
  attach,
  container,
  cliRun,
  pageSharing,
  warmPython,
  peerQemu,
  soak,
];
