// Totals of a JSON report of vitest.
import { existsSync, readFileSync } from 'node:fs';
import { Failure } from './run.mjs';

/**
 * { passed, failed, skipped }; throws when there is none. Errors outside of tests make vitest exit non-zero without a
 * failed test.
 */
export function readReport(path, code) {
  if (!existsSync(path)) throw new Failure(`vitest left no report (exit code ${code})`);
  const report = JSON.parse(readFileSync(path, 'utf8'));
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests || (code === 0 ? 0 : 1),
    skipped: report.numPendingTests + report.numTodoTests,
  };
}
