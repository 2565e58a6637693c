// Totals of a JSON report of vitest.
import { existsSync, readFileSync } from 'node:fs';

/** { passed, failed, skipped }. Errors outside of tests make vitest exit non-zero without a failed test. */
export function readReport(path, code) {
  if (!existsSync(path)) return { passed: 0, failed: code === 0 ? 0 : 1, skipped: 0 };
  const report = JSON.parse(readFileSync(path, 'utf8'));
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests || (code === 0 ? 0 : 1),
    skipped: report.numPendingTests + report.numTodoTests,
  };
}
