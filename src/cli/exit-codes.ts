// What the exit codes of `vmfork` mean: one table, used by the code and shown by `--help`.

/** Exit codes; those of `exec` follow env(1), timeout(1) and the shells. */
export const EXIT = {
  ok: 0,
  /** It did not work; the message says why. `doctor`: it found problems. */
  failed: 1,
  /** The command line is wrong, except of `exec` and `run`. */
  usage: 2,
  /** `exec`: --timeout-ms passed. */
  timedOut: 124,
  /** `exec`, `run`: vmfork itself failed, or was called wrongly. */
  execFailed: 125,
  /** `exec`, `run`: the command was found but could not be started. */
  cannotStart: 126,
  /** `exec`, `run`: the command was not found in the guest. */
  notFound: 127,
  /** Plus the number of the signal that ended vmfork or the command. */
  signalled: 128,
  /** Nobody reads what it writes any more, 128 + SIGPIPE: what a program in a pipeline ends with. */
  unread: 141,
} as const;

export const EXIT_HELP = `
Exit codes:
  0    success; of exec and run: the own code of the command
  1    it did not work, or doctor found problems
  2    wrong command line, except of exec and run
  124  exec: --timeout-ms passed
  125  exec, run: vmfork itself failed, or wrong command line
  126  exec, run: the command could not be started
  127  exec, run: the command was not found in the guest
  128+n  signal n ended vmfork or the command (130: Ctrl-C, 137: killed, also for want of memory,
       141: nobody reads its output any more)`;
