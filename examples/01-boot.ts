// Boot a guest, look inside, end it. (5 s where the guest's kernel is interpreted, else below one.)
import { Template } from 'vmfork';

await using template = await Template.boot({ memoryMiB: 128, vcpus: 1 });
const { stdout } = await template.exec(['uname', '-srm']);
console.log(`booted ${stdout.trim()} as ${template.identity.hostname}`);
for (const { stage, ns } of template.timings())
  console.log(`  ${stage}: ${(ns / 1e6).toFixed(2)} ms`);
