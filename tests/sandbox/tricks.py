"""Programs that try to get out, to stay, or to take everything; each with what may become of it."""

from __future__ import annotations

from textwrap import dedent

STOPPED = {"forbidden"}
REFUSED = {"error"}
EITHER = {"error", "forbidden"}
TOO_LONG = {"timeout"}
TOO_BIG = {"memory", "error", "timeout"}
TOO_MUCH = {"output"}
DEAD = {"crashed", "error", "memory"}

_TRICKS = {
    # processes
    "fork": (STOPPED, "import os\ndef f(): return os.fork()"),
    "fork bomb": (STOPPED, "import os\ndef f():\n    while True: os.fork()"),
    "vfork by spawn": (EITHER, "import os\ndef f(): return os.posix_spawn('/bin/sh', ['sh'], {})"),
    "shell": (EITHER, "import os\ndef f(): return os.system('id')"),
    "execute": (EITHER, "import os\ndef f(): os.execv('/bin/sh', ['sh'])"),
    "subprocess": (EITHER, "import subprocess\ndef f(): return subprocess.run('id', shell=True)"),
    "multiprocessing": (EITHER, "import multiprocessing\ndef f(): multiprocessing.Process(target=print).start()"),
    "thread": (EITHER, "import _thread\ndef f(): _thread.start_new_thread(print, ())"),
    "thread bomb": (
        EITHER,
        "import threading\ndef f():\n    while True: threading.Thread(target=input).start()",
    ),
    # memory
    "list of a billion": (TOO_BIG, "def f(): return len([0] * 10**9)"),
    "bytes of many gigabytes": (TOO_BIG, "def f(): return len(bytes(10**11))"),
    "doubling text": (TOO_BIG, "def f():\n    s = 'a'\n    while True: s += s"),
    "growing dict": (TOO_BIG, "def f():\n    d = {}\n    while True: d[len(d)] = bytes(1000)"),
    "memory bomb that catches MemoryError": (
        TOO_LONG | DEAD,
        "def f():\n    k = []\n    while True:\n        try: k.append(bytes(10**7))\n        except MemoryError: pass",
    ),
    "endless recursion": (REFUSED, "def f(): return f()"),
    "recursion without a limit": (
        DEAD | TOO_LONG,
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\n"
        "def f(): return repr(A())",
    ),
    "raising the limits": (
        REFUSED,
        "import resource\ndef f(): resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
    ),
    # time
    "endless loop": (TOO_LONG, "def f():\n    while True: pass"),
    "endless loop on import": (TOO_LONG, "while True: pass\ndef f(): return 1"),
    "endless loop that catches everything": (
        TOO_LONG,
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    ),
    "one endless instruction": (TOO_LONG, "def f(): return 7 ** 10 ** 9 % 10"),
    "endless sum": (TOO_LONG, "def f(): return sum(range(10**14))"),
    "catastrophic expression": (TOO_LONG, "import re\ndef f(): return re.match('(a+)+$', 'a' * 60 + 'b') is None"),
    "sleep": (TOO_LONG, "import time\ndef f(): time.sleep(10**6)"),
    "endless clean-up": (
        TOO_LONG,
        "class A:\n    def __del__(self):\n        while True: pass\ndef f():\n    A()\n    return 1",
    ),
    # files
    "read a file": (REFUSED, "def f(): return open('/etc/passwd').read()"),
    "read the secret": (REFUSED, "def f(): return open({secret!r}).read()"),
    "write a file": (REFUSED, "def f(): return open({target!r}, 'w').write('x')"),
    "remove a file": (EITHER, "import os\ndef f(): return os.unlink({secret!r})"),
    "list the root": (EITHER, "import os\ndef f(): return os.listdir('/')"),
    "low-level open": (EITHER, "import posix\ndef f(): return posix.open('/', 0)"),
    "own environment": (REFUSED, "def f(): return open('/proc/self/environ').read()"),
    "own memory": (REFUSED, "def f(): return open('/proc/self/mem', 'rb+').read(1)"),
    "file through io": (REFUSED, "import _io\ndef f(): return _io.FileIO('/dev/zero').read(1)"),
    "open file descriptors": (
        EITHER,
        "import os\ndef f():\n    found = []\n    for n in range(64):\n        try: found.append(os.read(n, 10))\n"
        "        except OSError: pass\n    raise ValueError(found)",
    ),
    "memory file": (STOPPED | REFUSED, "import os\ndef f(): return os.memfd_create('x')"),
    "load a library": (EITHER, "import ctypes\ndef f(): return ctypes.CDLL(None).system(b'id')"),
    "load an extension": (
        EITHER,
        "import sys\ndef f():\n    import importlib.machinery as m\n"
        "    return m.ExtensionFileLoader('x', {target!r}).create_module(m.ModuleSpec('x', None, origin={target!r}))",
    ),
    "import from a path": (
        EITHER,
        "import sys\nsys.path.append('/usr/lib')\ndef f():\n    import sqlite3\n    return 1",
    ),
    # network
    "socket": (EITHER, "import socket\ndef f(): return socket.create_connection(('127.0.0.1', 22))"),
    "socket without import": (EITHER, "import sys\ndef f(): return sys.modules['_socket'].socket()"),
    "socket pair": (EITHER, "import _socket\ndef f(): return _socket.socketpair()"),
    "fetch": (EITHER, "from urllib.request import urlopen\ndef f(): return urlopen('http://1.1.1.1').read()"),
    # signals and privileges
    "kill the parent": (STOPPED, "import os\ndef f(): os.kill(os.getppid(), 9)"),
    "kill everybody": (STOPPED, "import os\ndef f(): os.kill(-1, 9)"),
    "kill oneself": (STOPPED, "import signal\ndef f(): signal.raise_signal(signal.SIGKILL)"),
    "abort": (STOPPED | DEAD, "import os\ndef f(): os.abort()"),
    "ignore every signal": (
        TOO_LONG,
        "import signal\ndef f():\n    for s in range(1, 32):\n        try: signal.signal(s, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: pass",
    ),
    "become root": (EITHER, "import os\ndef f(): os.setuid(0)"),
    "another root": (EITHER, "import os\ndef f(): os.chroot('..')"),
    "another namespace": (EITHER, "import os\ndef f(): getattr(os, 'unshare')(0x10000000)"),
    # leaving
    "exit": (REFUSED, "def f(): raise SystemExit(0)"),
    "quit at once": ({"crashed"}, "import os\ndef f(): os._exit(0)"),
    "keyboard interrupt": (REFUSED, "def f(): raise KeyboardInterrupt"),
    "exception that cannot be shown": (
        REFUSED,
        "class E(Exception):\n    def __str__(self): raise self\ndef f(): raise E",
    ),
    "read the console": (REFUSED, "def f(): return input()"),
    "debugger": (EITHER, "def f():\n    import pdb\n    pdb.set_trace()"),
    # output
    "huge result": (TOO_MUCH, "def f(): return 'a' * 10**7"),
    "huge number": (TOO_MUCH, "def f(): return 10 ** 10**5"),
    "result without end": (TOO_MUCH, "def f():\n    a = []\n    a.append(a)\n    return a"),
    "infinite repr": (
        TOO_MUCH,
        "class A:\n    def __repr__(self):\n        while True: pass\ndef f(): return A()",
    ),
    "generator without end": (TOO_MUCH, "import itertools\ndef f(): return itertools.count()"),
    "number that lies": (TOO_MUCH, "class N(int):\n    def __eq__(self, other): return True\ndef f(): return N(3)"),
    "endless printing": (TOO_LONG, "def f():\n    while True: print('a' * 1000)"),
    "no text": (TOO_MUCH, "def f(): return '\\ud800'"),
    # the walls themselves
    "class walking": (
        EITHER,
        "def f():\n    for c in ().__class__.__base__.__subclasses__():\n        if c.__name__ == '_wrap_close':\n"
        "            return c.__init__.__globals__['system']('id')\n    raise LookupError",
    ),
    "frames": (
        EITHER,
        "import sys\ndef f():\n    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n"
        "    return frame.f_globals['os'].system('id')",
    ),
    "another answer": (
        {"crashed"},
        "import os\ndef f():\n    for n in range(3, 99):\n        try: os.write(n, b'{{')\n"
        "        except OSError: pass\n    os._exit(0)",
    ),
    "a deep answer": (
        {"crashed"},
        "import os\ndef f():\n    for n in range(3, 99):\n"
        "        try: os.write(n, b'[' * 60000)\n        except OSError: pass\n    os._exit(0)",
    ),
    "an answer without end": (
        DEAD | TOO_LONG,
        "import os\ndef f():\n    while True:\n        for n in range(3, 99):\n"
        "            try: os.write(n, b'x' * 60000)\n            except OSError: pass",
    ),
    "other encoder": (
        {"crashed"},
        "import json\ndef f():\n    json.dumps = lambda *a: 'no'\n    return 1",
    ),
    "no builtins": (
        {"crashed", "error"},
        "import builtins\ndef f():\n    for n in dir(builtins):\n        if n != 'delattr': delattr(builtins, n)",
    ),
    # sources
    "not Python": (REFUSED, "def f(:"),
    "null bytes": (REFUSED, "def f(): return 1\x00"),
    "deep source": (DEAD, "def f(): return " + "(" * 5000 + ")" * 5000),
    "long sum": (DEAD | TOO_LONG | TOO_MUCH, "def f(): return eval('1' + '+1' * 10**6)"),
    "nothing called f": (REFUSED, "g = 1"),
}


def tricks(secret: str, target: str) -> dict[str, tuple[set[str], str]]:
    """Name: (statuses that contain it, source). `secret` is a file that exists, `target` one that does not."""
    places = {"{secret!r}": repr(secret), "{target!r}": repr(target), "{{": "{"}
    filled = {}
    for name, (allowed, source) in _TRICKS.items():
        for place, value in places.items():
            source = source.replace(place, value)
        filled[name] = (allowed, dedent(source))
    return filled
