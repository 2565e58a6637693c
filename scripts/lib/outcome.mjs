// What a stage's tests came to, and what the failed ones said: the end of a long log names them all.

const maxDetailLines = 30;

export class Outcome {
  passed = 0;
  failed = 0;
  skipped = 0;
  /** { name, detail } of each failure; one may stand for several failed tests. */
  failures = [];

  add(other) {
    this.passed += other.passed;
    this.failed += other.failed;
    this.skipped += other.skipped;
    this.failures.push(...other.failures);
    return this;
  }

  /** `detail`: output, of which the end is kept. */
  fail(name, detail, count = 1) {
    this.failed += count;
    this.failures.push({ name, detail: lastLines(detail) });
    return this;
  }

  toString() {
    return `${this.passed} passed, ${this.failed} failed, ${this.skipped} skipped`;
  }

  describeFailures() {
    return this.failures.map(({ name, detail }) => `✗ ${name}\n${indent(detail)}`).join('\n');
  }
}

const lastLines = (text) => text.trim().split('\n').slice(-maxDetailLines).join('\n');
const indent = (text) => text.replace(/^/gm, '    ');
