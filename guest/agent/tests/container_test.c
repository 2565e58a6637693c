// Containers for real: an EROFS image on a loop device, mounted and entered on this machine. Needs
// root, a loop device and mkfs.erofs; without them the tests say loudly that they were skipped.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"
#include "reaper.h"

static char device[32];

static bool shell(const char* command) { return system(command) == 0; }

static bool first_line(const char* command, char* line, size_t size) {
  FILE* pipe = popen(command, "r");
  if (!pipe) return false;
  bool got = fgets(line, (int)size, pipe) != NULL;
  line[strcspn(line, "\n")] = 0;
  return pclose(pipe) == 0 && got;
}

static const char kMakeImage[] =
    "set -e; d=$(mktemp -d /tmp/agent-image-XXXXXX); trap 'rm -rf $d' EXIT; mkdir -p $d/t/bin "
    "$d/t/etc $d/t/home/ann $d/t/vol; b=$(command -v busybox); cp $b $d/t/bin/busybox; "
    "for a in sh cat id ls pwd echo stat touch mkdir kill sleep mount env tty hostname tail; do "
    "ln $d/t/bin/busybox $d/t/bin/$a; done; echo kept > $d/t/vol/file; echo text > $d/t/etc/plain; "
    "ln -s /nowhere/resolv.conf $d/t/etc/resolv.conf; "
    "chmod 750 $d/t/home; echo note > $d/t/home/ann/note; "
    "printf 'root:x:0:0::/root:/bin/sh\\nann:x:1000:100::/home/ann:/bin/sh\\n' > $d/t/etc/passwd; "
    "printf 'root:x:0:root\\nusers:x:100:\\nwheel:x:10:bob,ann\\nann:x:55:\\n' > $d/t/etc/group; "
    "mkfs.erofs $d/i $d/t >/dev/null 2>&1; losetup --find --show --read-only $d/i";

static bool prepare(void) {
  if (device[0]) return true;
  if (getuid() == 0 && first_line(kMakeImage, device, sizeof device)) return true;
  printf("  SKIPPED: no root, loop device, mkfs.erofs or static busybox here\n");
  return false;
}

static void release_device(void) {
  char command[64];
  snprintf(command, sizeof command, "losetup -d %s", device);
  CHECK(shell(command));
}

static uint32_t mount_payload(uint8_t* payload, uint32_t writable) {
  struct tlv_writer writer;
  tlv_begin(&writer, payload, 1024);
  tlv_put_text(&writer, kTagDevice, device + strlen("/dev/"));
  tlv_put_text(&writer, kTagFsType, "erofs");
  tlv_put_u32(&writer, kTagWritable, writable);
  tlv_put_text(&writer, kTagHostsExtra, "10.0.0.1 db\n");
  tlv_put_text(&writer, kTagResolvConf, "nameserver 10.0.0.2\n");
  return tlv_size(&writer);
}

static void send_mount(struct peer* peer, uint32_t stream, uint32_t writable) {
  uint8_t payload[1024];
  uint32_t length = mount_payload(payload, writable);
  peer_send(peer, (struct frame){.length = length, .type = kMountRootfs, .stream = stream},
            payload);
}

static struct peer* peer_with_rootfs(uint32_t writable) {
  struct peer* peer = peer_start();
  send_mount(peer, 9, writable);
  CHECK(peer_expect(peer, kRootfsReady, 9));
  return peer;
}

struct command {
  uint32_t flags;
  const char* user;
  const char* cwd;
  const char* script;
  const char* program;  // instead of the script
};

static uint32_t command_payload(uint8_t* payload, const struct command* command) {
  struct tlv_writer writer;
  tlv_begin(&writer, payload, 2048);
  tlv_put_u32(&writer, kTagContainer, command->flags);
  tlv_put_text(&writer, kTagEnv, "PATH=/bin");
  if (command->user) tlv_put_text(&writer, kTagUser, command->user);
  if (command->cwd) tlv_put_text(&writer, kTagCwd, command->cwd);
  if (command->program) {
    tlv_put_text(&writer, kTagArg, command->program);
  } else {
    tlv_put_text(&writer, kTagArg, "sh");
    tlv_put_text(&writer, kTagArg, "-c");
    tlv_put_text(&writer, kTagArg, command->script);
  }
  return tlv_size(&writer);
}

static void start(struct peer* peer, uint32_t stream, uint16_t aux, const struct command* command) {
  uint8_t payload[2048];
  struct frame frame = {.type = kExec, .stream = stream, .aux = aux};
  frame.length = command_payload(payload, command);
  peer_send(peer, frame, payload);
}

static struct result run(struct peer* peer, const struct command* command) {
  struct result results[2] = {0};
  start(peer, 1, kExecMergeStderr, command);
  CHECK(results_collect(peer, results, 1));
  return results[1];
}

static void expect_output(struct peer* peer, const struct command* command, const char* output) {
  struct result result = run(peer, command);
  if (strcmp(result.head[0], output) != 0) {
    printf("  %s: \"%s\", stage \"%s\" %d\n", command->script, result.head[0], result.stage,
           result.error);
  }
  CHECK(result.exit_code == 0 && strcmp(result.head[0], output) == 0);
}

static void run_main(struct peer* peer, const char* script, const char* output) {
  expect_output(peer, &(struct command){.flags = kContainerMain, .script = script}, output);
}

static void a_main_process_is_alone_in_its_namespaces(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  run_main(peer, "echo $$; ls /proc | head -c 2; pwd", "1\n1\n/\n");
  run_main(peer, "cat /etc/plain; ls /; echo $HOME",
           "text\nbin\ndev\netc\nhome\nproc\nrun\nsys\nvol\n/root\n");
  run_main(peer, "cat /etc/hostname; tail -n 1 /etc/hosts; cat /etc/resolv.conf",
           "vmfork-00000000\n10.0.0.1 db\nnameserver 10.0.0.2\n");
  run_main(peer, "cat /vol/file; echo new > /vol/file; cat /vol/file", "kept\nnew\n");
  // The next one sees what the last one wrote, and no process of it.
  run_main(peer, "cat /vol/file; ls -d /proc/[0-9]*", "new\n/proc/1\n");
  peer_stop(peer);
}

static void devices_and_kernel_trees_are_dockers(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  run_main(peer, "ls /dev",
           "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\n"
           "stdout\ntty\nurandom\nvmfork.sock\nzero\n");
  run_main(peer, "stat -c %a:%t:%T /dev/null; echo x > /dev/null; echo a > /dev/shm/f",
           "666:1:3\n");
  run_main(peer,
           "for f in kcore keys; do [ ! -e /proc/$f ] || cat /proc/$f; done; "
           "{ echo x > /proc/sys/kernel/hostname; } 2>/dev/null; [ $? = 1 ]",
           "");
  struct result result =
      run(peer, &(struct command){.flags = kContainerMain, .script = "mkdir /sys/fs/x"});
  CHECK(result.exit_code == 1);
  peer_stop(peer);
}

static void users_come_from_the_image(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  static const char kScript[] = "id -u; id -g; id -G; echo $HOME";
  static const char* const kCases[][2] = {
      {"ann", "1000\n100\n100 10\n/home/ann\n"},
      {"1000", "1000\n100\n100 10\n/home/ann\n"},
      {"ann:wheel", "1000\n10\n10\n/home/ann\n"},
      {"77", "77\n0\n0\n/\n"},
      {"77:88", "77\n88\n88\n/\n"},
      {"", "0\n0\n0\n/root\n"},
  };
  for (size_t i = 0; i < sizeof kCases / sizeof kCases[0]; i++) {
    struct command command = {.flags = kContainerMain, .user = kCases[i][0], .script = kScript};
    expect_output(peer, &command, kCases[i][1]);
  }
  struct command nobody = {.flags = kContainerMain, .user = "nobody", .script = kScript};
  struct result result = run(peer, &nobody);
  CHECK(result.error == ENOENT && strcmp(result.stage, "user") == 0);
  peer_stop(peer);
}

static void privileges_are_dockers(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  run_main(peer,
           "while read a b; do case $a in CapEff:|CapBnd:|CapInh:|NoNewPrivs:) echo $a $b;; esac; "
           "done < /proc/self/status",
           "CapInh: 0000000000000000\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\n"
           "NoNewPrivs: 0\n");
  struct command user = {.flags = kContainerMain | kContainerNoNewPrivs,
                         .user = "ann",
                         .script =
                             "while read a b; do case $a in CapEff:|NoNewPrivs:) echo $b;; "
                             "esac; done < /proc/self/status"};
  expect_output(peer, &user, "0000000000000000\n1\n");
  struct command privileged = {.flags = kContainerMain | kContainerPrivileged,
                               .script = "mount -t tmpfs x /vol && echo mounted"};
  expect_output(peer, &privileged, "mounted\n");
  peer_stop(peer);
}

static void read_only_roots_keep_their_volumes(void) {
  if (!prepare()) return;
  for (uint32_t writable = kWritableNone; writable <= kWritableMemory; writable++) {
    struct peer* peer = peer_with_rootfs(writable);
    uint8_t payload[2048];
    struct command command = {
        .flags = kContainerMain | kContainerReadOnly,
        .script =
            "touch /x; cat /vol/file; echo 1 > /vol/file; cat /vol/file; touch /tmp/y; "
            "stat -c %a /tmp"};
    struct tlv_writer writer;
    uint32_t length = command_payload(payload, &command);
    tlv_begin(&writer, payload + length, sizeof payload - length);
    static const char kTmpfs[] = "\x07\0\0\0/tmp\0mode=1770,size=1m";
    tlv_put(&writer, kTagTmpfs, kTmpfs, sizeof kTmpfs - 1);
    tlv_put_text(&writer, kTagVolume, "/vol");
    length += tlv_size(&writer);
    struct frame frame = {.length = length, .type = kExec, .stream = 1, .aux = kExecMergeStderr};
    peer_send(peer, frame, payload);
    struct result results[2] = {0};
    CHECK(results_collect(peer, results, 1));
    CHECK(strcmp(results[1].head[0], "touch: /x: Read-only file system\nkept\n1\n1770\n") == 0);
    peer_stop(peer);
  }
}

static void put_tmpfs(struct tlv_writer* writer, const char* path, const char* options) {
  uint8_t value[128] = {kTmpfsNoExec | kTmpfsNoAtime};
  size_t length =
      4 + (size_t)snprintf((char*)value + 4, sizeof value - 4, "%s%c%s", path, 0, options);
  tlv_put(writer, kTagTmpfs, value, (uint32_t)length);
}

// Deeper ones come later, and what a tmpfs hides of a volume is taken before.
static void mounts_of_the_main_process_do_not_hide_each_other(void) {
  if (!prepare()) return;
  for (uint32_t flags = 0; flags <= kContainerReadOnly; flags += kContainerReadOnly) {
    struct peer* peer = peer_with_rootfs(kWritableMemory);
    uint8_t payload[2048];
    struct command command = {
        .flags = kContainerMain | flags,
        .script =
            "stat -c %a /home /vol /fresh /fresh/deep; cat /home/ann/note; "
            "echo new > /home/ann/note; cat /home/ann/note; echo x > /home/gone; "
            "while read a b c d e; do case $b in /fresh) echo $d;; esac; done < /proc/mounts"};
    struct tlv_writer writer;
    uint32_t length = command_payload(payload, &command);
    tlv_begin(&writer, payload + length, sizeof payload - length);
    put_tmpfs(&writer, "/fresh/deep", "mode=700");
    put_tmpfs(&writer, "/fresh", "");
    put_tmpfs(&writer, "/home/", "");
    put_tmpfs(&writer, "/vol", "mode=1770");
    tlv_put_text(&writer, kTagVolume, "/home/ann");
    length += tlv_size(&writer);
    struct frame frame = {.length = length, .type = kExec, .stream = 1, .aux = kExecMergeStderr};
    peer_send(peer, frame, payload);
    struct result results[2] = {0};
    CHECK(results_collect(peer, results, 1));
    const char* output = results[1].head[0];
    static const char kExpected[] = "750\n1770\n1777\n700\nnote\nnew\nrw,noexec,noatime";
    if (strncmp(output, kExpected, strlen(kExpected)) != 0) printf("  \"%s\"\n", output);
    CHECK(strncmp(output, kExpected, strlen(kExpected)) == 0);
    peer_stop(peer);
  }
}

static void commands_join_the_main_process(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  struct result results[8] = {0};
  struct command main_process = {.flags = kContainerMain, .script = "echo up; exec sleep 60"};
  start(peer, 2, kExecNoStdin, &main_process);
  while (results[2].bytes[0] == 0 && peer_read(peer, kPatienceMs)) result_take(peer, results);
  struct command join = {
      .script = "cat /proc/1/cmdline; ls -l /proc/1/ns/uts /proc/$$/ns/uts | tail -c 0"};
  start(peer, 1, kExecNoStdin, &join);
  while (!results[1].ended && peer_read(peer, kPatienceMs)) result_take(peer, results);
  CHECK(results[1].exit_code == 0 && memcmp(results[1].head[0], "sleep\00060", 8) == 0);
  // A second main process has no place.
  start(peer, 3, kExecNoStdin, &main_process);
  while (!results[3].ended && peer_read(peer, kPatienceMs)) result_take(peer, results);
  CHECK(results[3].error == EBUSY && strcmp(results[3].stage, "container") == 0);
  // Its end is the end of all.
  struct command other = {.script = "sleep 60"};
  start(peer, 4, kExecNoStdin, &other);
  while (!results[4].started && peer_read(peer, kPatienceMs)) result_take(peer, results);
  peer_send(peer, (struct frame){.type = kSignal, .stream = 2, .value = SIGKILL}, NULL);
  while (!(results[2].ended && results[4].ended) && peer_read(peer, kPatienceMs)) {
    result_take(peer, results);
  }
  CHECK(results[2].exit_signal == SIGKILL && results[4].exit_signal == SIGKILL);
  struct result late = run(peer, &join);
  CHECK(late.error == ESRCH && strcmp(late.stage, "container") == 0);
  peer_stop(peer);
}

// The reaper by itself: this program, sanitizers and all, cannot be executed inside the image.
static pid_t start_reaper(const char* script) {
  pid_t pid = fork();
  if (pid == 0) {
    execl("/proc/self/exe", REAPER_NAME, "/bin/sh", "sh", "-c", script, NULL);
    _exit(99);
  }
  return pid;
}

static int end_of(pid_t pid) {
  int status = -1;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void an_init_process_ends_as_its_program_and_passes_signals_on(void) {
  CHECK(end_of(start_reaper("exit 5")) == 5);
  CHECK(end_of(start_reaper("kill -9 $$")) == 128 + SIGKILL);
  int fds[2];
  char byte;
  CHECK(pipe(fds) == 0 && fds[1] < 10);
  char script[96];
  snprintf(script, sizeof script, "trap 'exit 6' TERM; echo >&%d; while :; do sleep 0.05; done",
           fds[1]);
  pid_t pid = start_reaper(script);
  CHECK(read(fds[0], &byte, 1) == 1 && kill(pid, SIGTERM) == 0);
  CHECK(end_of(pid) == 6);
  close(fds[0]);
  close(fds[1]);
}

static void failures_name_their_stage(void) {
  if (!prepare()) return;
  struct peer* peer = peer_start();
  struct command command = {.flags = kContainerMain, .program = "echo"};
  struct result result = run(peer, &command);
  CHECK(result.error == ENXIO && strcmp(result.stage, "container") == 0);
  send_mount(peer, 9, kWritableMemory);
  CHECK(peer_expect(peer, kRootfsReady, 9));
  send_mount(peer, 9, kWritableMemory);
  CHECK(peer_expect(peer, kError, 9) && peer->frame.value == EBUSY);
  command.program = "no-such-program";
  result = run(peer, &command);
  CHECK(result.error == ENOENT && strcmp(result.stage, "lookup") == 0);
  command.program = "/etc/plain";
  result = run(peer, &command);
  CHECK(result.error == EACCES && strcmp(result.stage, "exec") == 0);
  command.program = "/etc/plain/x";
  result = run(peer, &command);
  CHECK(result.error == ENOTDIR);
  command = (struct command){.flags = kContainerMain, .script = "pwd", .cwd = "/new/work"};
  expect_output(peer, &command, "/new/work\n");
  command.cwd = "/etc/plain/sub";
  result = run(peer, &command);
  CHECK(result.error == ENOTDIR && strcmp(result.stage, "chdir") == 0);
  peer_send(peer, (struct frame){.type = kUnmountRootfs, .stream = 9}, NULL);
  CHECK(peer_expect(peer, kRootfsGone, 9));
  send_mount(peer, 9, kWritableMemory);
  CHECK(peer_expect(peer, kRootfsReady, 9));
  peer_stop(peer);
}

static void a_terminal_has_its_name_inside(void) {
  if (!prepare()) return;
  struct peer* peer = peer_with_rootfs(kWritableMemory);
  struct result results[2] = {0};
  struct command command = {.flags = kContainerMain, .script = "tty; ls -l /dev/pts | tail -n 2"};
  start(peer, 1, kExecPty, &command);
  CHECK(results_collect(peer, results, 1));
  CHECK(strstr(results[1].head[0], "/dev/pts/0\r\n") && results[1].exit_code == 0);
  peer_stop(peer);
}

void container_tests(void) {
  TEST(a_main_process_is_alone_in_its_namespaces);
  TEST(devices_and_kernel_trees_are_dockers);
  TEST(users_come_from_the_image);
  TEST(privileges_are_dockers);
  TEST(read_only_roots_keep_their_volumes);
  TEST(mounts_of_the_main_process_do_not_hide_each_other);
  TEST(commands_join_the_main_process);
  TEST(an_init_process_ends_as_its_program_and_passes_signals_on);
  TEST(failures_name_their_stage);
  TEST(a_terminal_has_its_name_inside);
  if (device[0]) release_device();
}
