// A container may have CAP_MKNOD and images hold device nodes, but the machine's own disks are not
// theirs: a program on the control group decides what may be opened (cgroup-v2.rst, "Device
// controller"). Making nodes is allowed, as in Docker's containers.
#include "devices.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/bpf.h>

enum { kMinorBits = 20, kKindMask = 0xffff, kAccessShift = 16 };
enum { kMemory = 1, kTerminals = 5, kPseudoTerminals = 136 };  // majors: admin-guide/devices.txt
enum { kDeny = 19, kAllow = 21 };                              // where the program goes on

#define NUMBER(major, minor) ((major) << kMinorBits | (minor))
#define LOAD(reg, member)             \
  {.code = BPF_LDX | BPF_MEM | BPF_W, \
   .dst_reg = BPF_REG_##reg,          \
   .src_reg = BPF_REG_1,              \
   .off = offsetof(struct bpf_cgroup_dev_ctx, member)}
#define WITH_NUMBER(op, reg, number) \
  {.code = BPF_ALU64 | (op) | BPF_K, .dst_reg = BPF_REG_##reg, .imm = (number)}
#define WITH_REGISTER(op, reg, from) \
  {.code = BPF_ALU64 | (op) | BPF_X, .dst_reg = BPF_REG_##reg, .src_reg = BPF_REG_##from}
#define GO(at, to, op, reg, number)       \
  [at] = {.code = BPF_JMP | (op) | BPF_K, \
          .dst_reg = BPF_REG_##reg,       \
          .off = (to) - (at) - 1,         \
          .imm = (number)}
#define EXIT {.code = BPF_JMP | BPF_EXIT}

static const struct bpf_insn kProgram[] = {
    LOAD(2, access_type),
    LOAD(3, major),
    LOAD(4, minor),
    WITH_NUMBER(BPF_LSH, 3, kMinorBits),
    WITH_REGISTER(BPF_OR, 3, 4),
    WITH_REGISTER(BPF_MOV, 4, 2),
    WITH_NUMBER(BPF_RSH, 4, kAccessShift),
    GO(7, kAllow, BPF_JEQ, 4, BPF_DEVCG_ACC_MKNOD),
    WITH_NUMBER(BPF_AND, 2, kKindMask),
    GO(9, kDeny, BPF_JNE, 2, BPF_DEVCG_DEV_CHAR),
    GO(10, kAllow, BPF_JEQ, 3, NUMBER(kMemory, 3)),     // null
    GO(11, kAllow, BPF_JEQ, 3, NUMBER(kMemory, 5)),     // zero
    GO(12, kAllow, BPF_JEQ, 3, NUMBER(kMemory, 7)),     // full
    GO(13, kAllow, BPF_JEQ, 3, NUMBER(kMemory, 8)),     // random
    GO(14, kAllow, BPF_JEQ, 3, NUMBER(kMemory, 9)),     // urandom
    GO(15, kAllow, BPF_JEQ, 3, NUMBER(kTerminals, 0)),  // tty
    GO(16, kAllow, BPF_JEQ, 3, NUMBER(kTerminals, 2)),  // ptmx
    WITH_NUMBER(BPF_RSH, 3, kMinorBits),
    GO(18, kAllow, BPF_JEQ, 3, kPseudoTerminals),
    [kDeny] = WITH_NUMBER(BPF_MOV, 0, 0),
    EXIT,
    [kAllow] = WITH_NUMBER(BPF_MOV, 0, 1),
    EXIT,
};

static int bpf(enum bpf_cmd command, union bpf_attr* attributes) {
  return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static int load_program(void) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = (uintptr_t)kProgram;
  attributes.insn_cnt = sizeof kProgram / sizeof kProgram[0];
  attributes.license = (uintptr_t)"Apache-2.0";
  return bpf(BPF_PROG_LOAD, &attributes);
}

bool devices_restrict(int group, bool restricted) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.target_fd = (uint32_t)group;
  attributes.attach_type = BPF_CGROUP_DEVICE;
  if (!restricted) return bpf(BPF_PROG_DETACH, &attributes) == 0;
  int program = load_program();
  if (program < 0) return false;
  attributes.attach_bpf_fd = (uint32_t)program;
  bool attached = bpf(BPF_PROG_ATTACH, &attributes) == 0;
  int error = errno;
  close(program);  // the group holds it
  errno = error;
  return attached;
}
