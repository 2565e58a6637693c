// Platforms: which of an index's manifests is the one for os/architecture[/variant].

import { VmforkError } from '../errors.js';

/** An operating system and a processor, in the words of the image specification. */
export interface Platform {
  os: string;
  architecture: string;
  variant?: string | undefined;
}

const SYNONYMS: Readonly<Record<string, string>> = { x86_64: 'amd64', aarch64: 'arm64' };
// What an architecture without a variant means (containerd, platforms/database.go).
const BASE_LEVEL: Readonly<Record<string, number>> = { amd64: 1, arm64: 8, arm: 7 };

/** Parses `linux/amd64` or `linux/arm64/v8`. Throws `VMF_OPTIONS`. */
export function parsePlatform(text: string): Platform {
  const parts = String(text).split('/');
  const [os, architecture, variant] = parts;
  const wellFormed = parts.every((part) => /^[a-z0-9_.]{1,32}$/.test(part));
  if (!os || !architecture || parts.length > 3 || !wellFormed) {
    throw new VmforkError('VMF_OPTIONS', `platform must be like linux/amd64, got ${text}`);
  }
  return { os, architecture: SYNONYMS[architecture] ?? architecture, variant };
}

export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, variant].filter(Boolean).join('/');
}

/** Whether a machine of the wanted platform runs what was made for the offered one. */
export function isCompatible(wanted: Platform, offered: Platform): boolean {
  return rank(wanted, offered) >= 0;
}

/** The best of what is offered for a platform: the highest variant that it runs, the first of equals. */
export function choosePlatform<T extends { platform?: Platform | undefined }>(
  wanted: Platform,
  offered: readonly T[],
): T | undefined {
  let best: T | undefined;
  let bestRank = -1;
  for (const candidate of offered) {
    const candidateRank = candidate.platform ? rank(wanted, candidate.platform) : -1;
    if (candidateRank > bestRank) {
      best = candidate;
      bestRank = candidateRank;
    }
  }
  // An index need not name platforms; the image's own config is checked later.
  return best ?? offered.find((candidate) => candidate.platform === undefined);
}

/** Below 0: does not run. Else the higher the better. */
function rank(wanted: Platform, offered: Platform): number {
  const architecture = SYNONYMS[offered.architecture] ?? offered.architecture;
  if (wanted.os !== offered.os || wanted.architecture !== architecture) return -1;
  const most = level(architecture, wanted.variant);
  const least = level(architecture, offered.variant);
  if (most === undefined || least === undefined) return wanted.variant === offered.variant ? 0 : -1;
  return least <= most ? least : -1;
}

function level(architecture: string, variant: string | undefined): number | undefined {
  if (!variant) return BASE_LEVEL[architecture] ?? 0;
  const match = /^v([0-9]{1,3})$/.exec(variant);
  return match ? Number(match[1]) : undefined;
}
