// What PID 1 does before it can talk: mounts, the loopback interface, the files programs expect.
#ifndef VMFORK_AGENT_BOOT_H
#define VMFORK_AGENT_BOOT_H

// Leaves open standard descriptors behind (the console, or /dev/null).
void boot_mounts(void);
void boot_files(void);
// Shows the clone's own boot id where programs look for it; the identity files must exist.
void boot_bind_boot_id(void);
void boot_loopback(void);

#endif
