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
  kPayloadMaxBytes = 64 << 10,
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
  kMountRootfs = 40,
  kRootfsReady = 41,
  kUnmountRootfs = 42,
  kRootfsGone = 43,
  kOom = 44,
  kAdoptMain = 45,
  kPrepare = 46,
  kPrepared = 47,
  kDial = 48,
  kConnected = 49,
  kClosed = 50,
  kForkPoint = 51,
  kRelease = 52,
};

enum { kAuxStdin = 0, kAuxStdout = 1, kAuxStderr = 2 };
enum { kExecPty = 1, kExecNoStdin = 2, kExecMergeStderr = 4 };
enum { kResumeThawOnly = 1, kResumeSameMachine = 2 };
enum { kForkPointLeft = 1 };
enum { kSignalGroup = 1, kSignalMax = 64 };
enum { kWriteAppend = 1, kWriteParents = 2, kWriteExclusive = 4 };
enum { kWritableNone = 0, kWritableMemory = 1, kWritableDisk = 2 };
enum {
  kTmpfsNoExec = 1,
  kTmpfsNoSuid = 2,
  kTmpfsNoDev = 4,
  kTmpfsReadOnly = 8,
  kTmpfsSync = 16,
  kTmpfsDirSync = 32,
  kTmpfsNoAtime = 64,
  kTmpfsNoDirAtime = 128,
  kTmpfsStrictAtime = 256,
  kTmpfsFlags = 511,
};
enum {
  kContainerMain = 1,
  kContainerTool = 2,
  kContainerInit = 4,
  kContainerPrivileged = 8,
  kContainerNoNewPrivs = 16,
  kContainerReadOnly = 32,
  kContainerFlags = 63,
};

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
  kTagDevice = 70,
  kTagFsType = 71,
  kTagWritable = 72,
  kTagScratch = 73,
  kTagUpperBytes = 74,
  kTagHostsExtra = 75,
  kTagResolvConf = 76,
  kTagContainer = 80,
  kTagUser = 81,
  kTagCapabilities = 82,
  kTagRlimit = 83,
  kTagUmask = 84,
  kTagOomScoreAdj = 85,
  kTagTmpfs = 86,
  kTagVolume = 87,
  kTagMemoryMax = 88,
  kTagPidsMax = 89,
  kTagCpuWeight = 90,
  kTagOomKills = 91,
  kTagForkPoint = 100,
  kTagPayload = 101,
  kTagPort = 102,
  kTagHost = 103,
};

#endif
