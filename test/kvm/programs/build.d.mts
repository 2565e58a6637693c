/** Builds the test programs where there is a compiler; returns their folder. */
export function buildTestPrograms(): string;
