// Totals and failures of a JSON report of vitest.
import { existsSync, readFileSync } from 'node:fs';
import { Outcome } from './outcome.mjs';
import { Failure } from './run.mjs';

/**
 * The Outcome of `name`; throws when there is no report. Errors outside of tests make vitest exit non-zero without a
 * failed test. `output`: what it said, for when there is nothing else.
 */
export function readReport(name, path, code, output) {
  if (!existsSync(path)) throw new Failure(`vitest left no report (exit code ${code})`, output);
  const report = JSON.parse(readFileSync(path, 'utf8'));
  const outcome = new Outcome();
  outcome.passed = report.numPassedTests;
  outcome.skipped = report.numPendingTests + report.numTodoTests;
  for (const file of report.testResults) addFailures(outcome, name, file);
  if (code !== 0 && outcome.failed === 0) {
    outcome.fail(name, `an error outside of a test (vitest exited with ${code}): see above`);
  }
  return outcome;
}

function addFailures(outcome, name, { name: path, status, message, assertionResults }) {
  // Of this checkout, or of the emulated host's.
  const place = `${name}: ${path.slice(path.lastIndexOf('/test/') + 1)}`;
  const failed = assertionResults.filter((test) => test.status === 'failed');
  for (const test of failed) {
    outcome.fail(`${place} > ${test.fullName}`, firstLines(test.failureMessages.join('\n')));
  }
  // A file that cannot be loaded, or whose hooks fail, has no failed test.
  if (status === 'failed' && failed.length === 0) outcome.fail(place, message);
}

/** What failed comes first, then where. */
const firstLines = (text) => text.split('\n').slice(0, 20).join('\n');
