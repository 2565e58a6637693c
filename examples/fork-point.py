# A fork point in Python: import what is slow, wait, and go on in every clone. docs/fork-points.md describes the bytes.
import os
import socket
import struct


def fork_point(name, path='/run/vmfork/fork-point.sock'):
    """Blocks until forked; returns (argv, env, data, stream), the stream being a binary file to the host."""
    point = socket.socket(socket.AF_UNIX)
    point.connect(path)
    point.sendall(b'FORK-POINT 1 %s\n' % name.encode())
    stream = point.makefile('rwb')
    (length,) = struct.unpack('<I', stream.read(4))
    body = stream.read(length)
    argc, envc = struct.unpack_from('<II', body)
    *strings, data = body[8:].split(b'\0', argc + envc)
    texts = [text.decode() for text in strings]
    return texts[:argc], dict(text.split('=', 1) for text in texts[argc:]), data, stream


if __name__ == '__main__':
    argv, env, data, stream = fork_point('python')
    os.environ.update(env)
    stream.write(b'%a %a %a %d\n' % (argv, env, data, os.getpid()))
    stream.flush()
