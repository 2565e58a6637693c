// Numbers of the control protocol (docs/protocol.md), generation 1: frame types, TLV tags, limits.
// src/exec/frames.ts is the other end; test/golden/frames.txt ties the two together.
#ifndef VMFORK_AGENT_PROTOCOL_H
#define VMFORK_AGENT_PROTOCOL_H

#include <stdint.h>

enum {
  kProtocolGeneration = 1,
  kProtocolGenerationMin = 1,
  kControlPort = 1024,
  kFrameHeaderBytes = 16,
  kFrameMaxPayloadBytes = 1 << 20,
  kDataMaxBytes = 64 << 10,
  kWindowBytes = 256 << 10,
  kExitGraceMs = 100,
};

enum frame_type {
  kHello = 1,
  kPing = 2,
  kPong = 3,
  kError = 4,
  kQuiesce = 5,
  kQuiesced = 6,
  kResume = 7,
  kResumed = 8,
  kShutdown = 9,
  kLog = 10,
  kExec = 16,
  kStarted = 17,
  kData = 18,
  kEof = 19,
  kWindow = 20,
  kResize = 21,
  kSignal = 22,
  kExit = 23,
  kFileRead = 32,
  kFileWrite = 33,
  kFileDone = 34,
};

enum { kAuxStdin = 0, kAuxStdout = 1, kAuxStderr = 2 };
enum { kExecPty = 1, kExecNoStdin = 2, kExecMergeStderr = 4 };
enum { kResumeThawOnly = 1 };
enum { kSignalGroup = 1, kSignalMax = 64 };
enum { kWriteAppend = 1, kWriteParents = 2, kWriteExclusive = 4 };

enum tlv_tag {
  kTagGenerationMin = 1,
  kTagBuild = 2,
  kTagBootNs = 3,
  kTagKernel = 4,
  kTagCpus = 5,
  kTagBootNonce = 6,
  kTagGenerationId = 10,
  kTagEntropy = 11,
  kTagRealtimeNs = 12,
  kTagHostname = 13,
  kTagMachineId = 14,
  kTagCid = 15,
  kTagBootId = 16,
  kTagBoottimeNs = 17,
  kTagStage = 30,
  kTagText = 31,
  kTagArg = 40,
  kTagEnv = 41,
  kTagCwd = 42,
  kTagUid = 43,
  kTagGid = 44,
  kTagPtySize = 45,
  kTagTimeoutMs = 46,
  kTagMaxRssKib = 50,
  kTagPath = 60,
  kTagOffset = 61,
  kTagLimit = 62,
  kTagMode = 63,
  kTagSize = 64,
};

#endif
