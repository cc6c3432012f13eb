"""The one speaker of libbpf, and of the few libc calls that Python lacks. cffi in ABI mode: nothing is compiled on
the node.

File descriptors are owned by whoever receives them. All calls are synchronous and short. A call that fails raises
BpfError with its errno.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from nodeagent.loader.errors import BpfError, LibraryMissingError

SONAME = "libbpf.so.1"
MAX_LOG_LINES = 200
"""libbpf's own messages that are kept for the text of an error."""
VERIFIER_LOG_BYTES = 64 * 1024
MAX_MESSAGE = 4096
"""Characters that are kept of one of them."""
MAX_QUERIED_PROGRAMS = 64
"""The kernel admits no more programs than this on one hook of a cgroup."""
BPF_FS_MAGIC = 0xCAFE4A11

F_QUERY_EFFECTIVE = 1

_CDEF = """
struct bpf_object; struct bpf_program; struct bpf_map;
typedef int (*libbpf_print_fn_t)(int level, const char *format, void *arguments);
libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t fn);
const char *libbpf_version_string(void);
int libbpf_num_possible_cpus(void);
int libbpf_probe_bpf_map_type(int type, const void *opts);

struct bpf_object *bpf_object__open_file(const char *path, const void *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
int bpf_program__expected_attach_type(const struct bpf_program *prog);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
bool bpf_map__is_internal(const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
uint32_t bpf_map__map_flags(const struct bpf_map *map);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);

struct bpf_prog_load_opts {
    size_t sz; int attempts; int expected_attach_type;
    uint32_t prog_btf_fd; uint32_t prog_flags; uint32_t prog_ifindex; uint32_t kern_version; uint32_t attach_btf_id;
    uint32_t attach_prog_fd; uint32_t attach_btf_obj_fd;
    const int *fd_array; const void *func_info; uint32_t func_info_cnt; uint32_t func_info_rec_size;
    const void *line_info; uint32_t line_info_cnt; uint32_t line_info_rec_size;
    uint32_t log_level; uint32_t log_size; char *log_buf;
};
int bpf_prog_load(int type, const char *name, const char *license, const void *insns, size_t count,
                  const struct bpf_prog_load_opts *opts);
int bpf_map_create(int type, const char *name, uint32_t key, uint32_t value, uint32_t entries, const void *opts);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
int bpf_map_lookup_batch(int fd, const void *from, void *next, void *keys, void *values, uint32_t *count,
                         const void *opts);
int bpf_map_update_batch(int fd, const void *keys, const void *values, uint32_t *count, const void *opts);
int bpf_obj_pin(int fd, const char *path);
int bpf_obj_get(const char *path);
int bpf_link_create(int prog_fd, int target_fd, int attach_type, const void *opts);
int bpf_link_update(int link_fd, int new_prog_fd, const void *opts);
int bpf_link_detach(int link_fd);
int bpf_prog_get_fd_by_id(uint32_t id);
int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *length);
int bpf_prog_query(int target_fd, int type, uint32_t flags, uint32_t *attach_flags, uint32_t *ids, uint32_t *count);

struct map_info { uint32_t type, id, key_size, value_size, max_entries, map_flags; char name[16]; };
struct link_info { uint32_t type, id, prog_id, pad; uint64_t cgroup_id; uint32_t attach_type, pad2; };
struct prog_info {
    uint32_t type, id; uint8_t tag[8]; uint32_t jited_len, xlated_len; uint64_t jited, xlated, load_time;
    uint32_t uid, nr_map_ids; uint64_t map_ids; char name[16];
};

int vsnprintf(char *text, size_t size, const char *format, void *arguments);
int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
struct statfs { long f_type; char rest[248]; };
int statfs(const char *path, struct statfs *buffer);
"""


def _ends_of(message: str) -> str:
    """A message whose middle is left out if it is long: why the verifier refuses a program comes last in its log."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[: MAX_MESSAGE // 4]}\n[...]\n{message[-3 * MAX_MESSAGE // 4 :]}"


class Libbpf:
    """libbpf.so.1, opened once (see ``libbpf()``). ``ffi`` makes buffers; ``lib`` is for the hot path of maps only."""

    def __init__(self) -> None:
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(_CDEF)
        self.libc: Any = self.ffi.dlopen(None)
        try:
            library: Any = self.ffi.dlopen(SONAME)
        except OSError as error:
            raise LibraryMissingError(
                f"{SONAME} cannot be opened ({error}); install Debian's package libbpf1, or libbpf 1.x of your system"
            ) from error
        self.lib: Any = library
        self._log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._print = self.ffi.callback("libbpf_print_fn_t", self._collect)
        self.lib.libbpf_set_print(self._print)

    def _collect(self, level: int, text: Any, arguments: Any) -> int:
        """libbpf's messages go to the text of errors, not to stderr. (A va_list is passed by address on x86-64 and
        arm64.)
        """
        if level <= 1:
            line = self.ffi.new("char[]", VERIFIER_LOG_BYTES)
            self.libc.vsnprintf(line, VERIFIER_LOG_BYTES, text, arguments)
            self._log.append(_ends_of(self.ffi.string(line).decode(errors="replace").rstrip()))
        return 0

    def take_log(self) -> str:
        """What libbpf said since the last call."""
        text = "\n".join(self._log)
        self._log.clear()
        return text

    def version(self) -> str:
        """libbpf's own version, such as ``v1.1``."""
        return self._text(self.lib.libbpf_version_string())

    def _text(self, pointer: Any) -> str:
        return bytes(self.ffi.string(pointer)).decode()

    def check(self, result: int, what: str, hint: str = "") -> int:
        """The result of a call, or BpfError (libbpf answers with the negative errno, some calls with -1 and errno)."""
        if result >= 0:
            return result
        raise BpfError(what, self.ffi.errno if result == -1 and self.ffi.errno else -result, hint)

    # -- objects -----------------------------------------------------------------------------------------------------

    def open_object(self, path: Path) -> Any:
        """The parsed object file (nothing is in the kernel yet); close it with ``close_object``."""
        self.take_log()
        handle = self.lib.bpf_object__open_file(os.fsencode(path), self.ffi.NULL)
        if handle == self.ffi.NULL:
            raise BpfError(f"cannot read BPF object {path}", self.ffi.errno or errno.EINVAL, self.take_log())
        return handle

    def load_object(self, handle: Any, what: str) -> None:
        """Create its maps and pass its programs through the verifier."""
        result = self.lib.bpf_object__load(handle)
        if result < 0:
            self.check(result, f"the kernel refuses {what}", "libbpf says:\n" + self.take_log())

    def close_object(self, handle: Any) -> None:
        """Drop the object; what is pinned or attached stays."""
        self.lib.bpf_object__close(handle)

    def programs(self, handle: Any) -> dict[str, Any]:
        """Programs by name, in the order of the object file."""
        found: dict[str, Any] = {}
        program = self.lib.bpf_object__next_program(handle, self.ffi.NULL)
        while program != self.ffi.NULL:
            found[self._text(self.lib.bpf_program__name(program))] = program
            program = self.lib.bpf_object__next_program(handle, program)
        return found

    def maps(self, handle: Any) -> dict[str, Any]:
        """Maps by name, without libbpf's internal ones (.rodata)."""
        found: dict[str, Any] = {}
        entry = self.lib.bpf_object__next_map(handle, self.ffi.NULL)
        while entry != self.ffi.NULL:
            if not self.lib.bpf_map__is_internal(entry):
                found[self._text(self.lib.bpf_map__name(entry))] = entry
            entry = self.lib.bpf_object__next_map(handle, entry)
        return found

    def internal_map(self, handle: Any, suffix: str) -> Any:
        """The map that libbpf makes of this section of constants; BpfError if the object has none."""
        entry = self.lib.bpf_object__next_map(handle, self.ffi.NULL)
        while entry != self.ffi.NULL:
            if self.lib.bpf_map__is_internal(entry) and self._text(self.lib.bpf_map__name(entry)).endswith(suffix):
                return entry
            entry = self.lib.bpf_object__next_map(handle, entry)
        raise BpfError(f"the BPF object has no constants {suffix}", errno.ENOENT, "build it anew with 'make -C bpf'")

    # -- single programs and maps (probes) ---------------------------------------------------------------------------

    def load_program(self, kind: int, attach_type: int, instructions: bytes) -> int:
        """A program from raw instructions; BpfError carries the verifier's words."""
        log = self.ffi.new("char[]", VERIFIER_LOG_BYTES)
        options = self.ffi.new("struct bpf_prog_load_opts *")
        options.sz = self.ffi.sizeof("struct bpf_prog_load_opts")
        options.expected_attach_type = attach_type
        options.log_level, options.log_size, options.log_buf = 1, VERIFIER_LOG_BYTES, log
        code = self.ffi.from_buffer(instructions)
        result = self.lib.bpf_prog_load(kind, b"mesh_probe", b"GPL", code, len(instructions) // 8, options)
        if result < 0:
            self.check(result, "cannot load a program", bytes(self.ffi.string(log)).decode(errors="replace").strip())
        return int(result)

    def create_map(self, kind: int, key: int, value: int, entries: int) -> int:
        """A map without BTF and flags."""
        result = self.lib.bpf_map_create(kind, b"mesh_probe", key, value, entries, self.ffi.NULL)
        return self.check(result, "cannot create a map")

    def probe_map_type(self, kind: int) -> int:
        """libbpf's own probe: 1 supported, 0 not, negative errno if it cannot tell."""
        return int(self.lib.libbpf_probe_bpf_map_type(kind, self.ffi.NULL))

    def possible_cpus(self) -> int:
        """How many values an entry of a per-CPU map has."""
        return self.check(self.lib.libbpf_num_possible_cpus(), "cannot count the CPUs")

    # -- links, pins, queries ----------------------------------------------------------------------------------------

    def pin(self, fd: int, path: Path) -> None:
        """Give a map or link a name under bpffs."""
        self.check(self.lib.bpf_obj_pin(fd, os.fsencode(path)), f"cannot pin {path}")

    def get(self, path: Path) -> int:
        """A file descriptor of what is pinned there."""
        return self.check(self.lib.bpf_obj_get(os.fsencode(path)), f"cannot open pin {path}")

    def attach(self, program_fd: int, cgroup_fd: int, attach_type: int) -> int:
        """A link on a cgroup, beside whatever else is attached there (links always allow others)."""
        result = self.lib.bpf_link_create(program_fd, cgroup_fd, attach_type, self.ffi.NULL)
        hint = "another program may be attached to it, or above it, without BPF_F_ALLOW_MULTI"
        return self.check(result, "cannot attach to the cgroup", hint if -result == errno.EPERM else "")

    def replace(self, link_fd: int, program_fd: int) -> None:
        """Exchange the program of a link atomically."""
        self.check(self.lib.bpf_link_update(link_fd, program_fd, self.ffi.NULL), "cannot update the link")

    def detach(self, link_fd: int) -> None:
        """Take a link out of force even if somebody else still holds it."""
        self.check(self.lib.bpf_link_detach(link_fd), "cannot detach the link")

    def program_fd(self, program_id: int) -> int:
        """A file descriptor of a program by its id."""
        return self.check(self.lib.bpf_prog_get_fd_by_id(program_id), f"cannot open program {program_id}")

    def info(self, fd: int, kind: str) -> Any:
        """``kind`` is map, link or prog: the kernel's description, as far as the cdef declares it."""
        info = self.ffi.new(f"struct {kind}_info *")
        length = self.ffi.new("uint32_t *", self.ffi.sizeof(f"struct {kind}_info"))
        self.check(self.lib.bpf_obj_get_info_by_fd(fd, info, length), f"cannot describe a {kind}")
        return info

    def info_name(self, info: Any) -> str:
        """The name in a map's or program's description."""
        return self._text(info.name)

    def attached_programs(self, cgroup_fd: int, attach_type: int, *, effective: bool) -> list[int]:
        """Ids of the programs on one hook of a cgroup, in the order in which they run."""
        ids = self.ffi.new("uint32_t[]", MAX_QUERIED_PROGRAMS)
        count = self.ffi.new("uint32_t *", MAX_QUERIED_PROGRAMS)
        flags = F_QUERY_EFFECTIVE if effective else 0
        result = self.lib.bpf_prog_query(cgroup_fd, attach_type, flags, self.ffi.NULL, ids, count)
        self.check(result, "cannot ask which programs are attached")
        return list(ids[0 : count[0]])

    # -- libc --------------------------------------------------------------------------------------------------------

    def is_bpffs(self, path: Path) -> bool:
        """Whether the directory is in a BPF file system."""
        buffer = self.ffi.new("struct statfs *")
        if self.libc.statfs(os.fsencode(path), buffer) != 0:
            raise BpfError(f"cannot look at {path}", self.ffi.errno)
        return bool((int(buffer.f_type) & 0xFFFFFFFF) == BPF_FS_MAGIC)

    def mount_bpffs(self, path: Path) -> None:
        """Mount a BPF file system there."""
        if self.libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
            raise BpfError(
                f"cannot mount a BPF file system on {path}", self.ffi.errno,
                f"it needs CAP_SYS_ADMIN; mount it beforehand: mount -t bpf bpf {path}",
            )  # fmt: skip


@cache
def libbpf() -> Libbpf:
    """The library, opened at first use; LibraryMissingError names the package to install."""
    return Libbpf()
