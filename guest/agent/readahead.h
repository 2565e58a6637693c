// How far the guest's kernel reads ahead on disks.
#ifndef VMFORK_AGENT_READAHEAD_H
#define VMFORK_AGENT_READAHEAD_H

// From the first time that the machine comes to rest to be frozen on: so many KiB on each disk,
// whatever media the drives hold, as VMFORK_READ_AHEAD_KIB says; without it the kernel's own choice
// stays. Until then a template reads as far ahead as the kernel likes: what it has read, no clone
// has to.
void readahead_at_rest(void);

#endif
