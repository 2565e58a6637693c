// Last words: problems that end the agent are told to the kernel console before it exits.
#ifndef VMFORK_AGENT_CONSOLE_H
#define VMFORK_AGENT_CONSOLE_H

// Writes "vmfork-agent: what (errno N)"; the number is left out when `error` is 0.
void console_say(const char* what, int error);
// As PID 1 the exit panics the kernel: the VM ends instead of living on without its agent.
_Noreturn void fatal(const char* what, int error);

#endif
