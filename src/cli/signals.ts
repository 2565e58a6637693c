// The signals that `vmfork run` gets are its container's, as those of `docker run`.

import type { Container } from '../container/container.js';
import type { SignalHandler } from './engine.js';

/**
 * All that can be caught and mean something to a program. Not among them: faults of our own, SIGPIPE and SIGCHLD, which are
 * about our own streams and children, job control, which stops the machine with us, and SIGWINCH, which comes of a terminal's size.
 */
export const FORWARDED_SIGNALS: readonly NodeJS.Signals[] = [
  'SIGHUP',
  'SIGINT',
  'SIGQUIT',
  'SIGUSR1',
  'SIGUSR2',
  'SIGALRM',
  'SIGVTALRM',
  'SIGTERM',
  'SIGCONT',
  'SIGURG',
  'SIGIO',
  'SIGPWR',
];

// As the docker command line: whoever asks a third time to end does not want to wait any more.
const PATIENCE = 3;
const ASKING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM'];

/** Forwards signals to the main process for as long as it runs and the user is patient. */
export function forwardTo(container: Container): SignalHandler {
  let asked = 0;
  return (signal) => {
    if (ASKING.includes(signal)) asked++;
    if (asked >= PATIENCE || !container.running) return false;
    container.main.kill(signal);
    return true;
  };
}
