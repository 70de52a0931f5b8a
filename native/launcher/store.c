/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prefetch.h"
#include "proc.h"
#include "say.h"
#include "store_guard.h"
#include "store_meta.h"

/* READERS as Python has it: whoever makes the lock file decides. */
enum { STORE_FORMAT_MIN = 3, STORE_FORMAT = 4, NAMED_DATABASES = 16, READERS = 1024, SNAPSHOT_TRIES = 20 };

/* Room for what a checkpoint that commits between our look at the file and our snapshot may add. */
static const uint64_t map_slack_bytes = 256u << 20;

struct ref {
    uint64_t id;
    uint32_t check;
    uint32_t pad;
};

void store_damaged(const struct store *store, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    die("the store %s is damaged: %s; restore it from a copy, or see 'restorer verify'", store->path, text);
}

static void lmdb_assert_failed(MDB_env *env, const char *message)
{
    die("the store %s is damaged: LMDB found '%s'; restore it from a copy", (char *)mdb_env_get_userctx(env),
        message);
}

static void check_file(const struct store *store, struct store_meta *meta)
{
    char path[PATH_MAX];
    struct stat st;
    if (stat(store->path, &st) != 0)
        die("there is no store at %s: %s; name one with --store or RESTORER_STORE", store->path,
            strerror(errno));
    if (!S_ISDIR(st.st_mode))
        die("the store %s is not a folder; name one with --store or RESTORER_STORE", store->path);
    if ((size_t)snprintf(path, sizeof(path), "%s/data.mdb", store->path) >= sizeof(path))
        die("the path of the store is too long: %s", store->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        die("the folder %s holds no store (no data.mdb); name one with --store or RESTORER_STORE",
            store->path);
    if (fd < 0)
        die("cannot open %s: %s; run as the user who owns the store", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        store_damaged(store, "data.mdb is not a file");
    const char *wrong = store_meta_read(fd, meta);
    close(fd);
    if (wrong != NULL)
        store_damaged(store, "%s", wrong);
}

static int env_open_once(struct store *store, uint64_t map_bytes, unsigned int flags)
{
    int rc = mdb_env_create(&store->env);
    if (rc != 0)
        return rc;
    mdb_env_set_maxdbs(store->env, NAMED_DATABASES);
    mdb_env_set_maxreaders(store->env, READERS);
    mdb_env_set_mapsize(store->env, map_bytes);
    mdb_env_set_userctx(store->env, (void *)(uintptr_t)store->path);
    mdb_env_set_assert(store->env, lmdb_assert_failed);
    rc = mdb_env_open(store->env, store->path, MDB_RDONLY | MDB_NOTLS | MDB_NORDAHEAD | flags, 0600);
    if (rc == 0) {
        rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->txn);
        if (rc == MDB_READERS_FULL) {
            int dead;
            mdb_reader_check(store->env, &dead);
            rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, &store->txn);
        }
    }
    if (rc != 0)
        mdb_env_close(store->env);
    return rc;
}

/* The map is made no larger than the file needs, so that it takes as little as possible of the address space
 * that the region must find free; a store that outgrows it in between is opened again. */
static void env_open(struct store *store)
{
    struct store_meta meta;
    int rc = 0;
    for (int i = 0; i < SNAPSHOT_TRIES; i++) {
        check_file(store, &meta);
        uint64_t map_bytes = (meta.file_bytes > meta.used_bytes ? meta.file_bytes : meta.used_bytes);
        map_bytes = (map_bytes + map_slack_bytes) & ~(uint64_t)0xfffff;
        rc = env_open_once(store, map_bytes, 0);
        if (rc == EACCES || rc == EROFS || rc == EPERM)
            rc = env_open_once(store, map_bytes, MDB_NOLOCK);
        if (rc != MDB_MAP_RESIZED)
            break;
    }
    if (rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND)
        store_damaged(store, "%s", mdb_strerror(rc));
    if (rc == MDB_READERS_FULL)
        die("the store %s has as many readers as it can take: wait until other restores have ended",
            store->path);
    if (rc != 0)
        die("cannot open the store %s: %s; run as the user who owns it", store->path, mdb_strerror(rc));
}

static MDB_dbi database(const struct store *store, const char *name)
{
    MDB_dbi dbi;
    int rc = mdb_dbi_open(store->txn, name, 0, &dbi);
    if (rc == MDB_NOTFOUND)
        store_damaged(store, "its database '%s' is missing", name);
    if (rc != 0)
        store_damaged(store, "its database '%s' cannot be opened: %s", name, mdb_strerror(rc));
    return dbi;
}

/* LMDB hands out pointers that it computed from page contents: never follow one out of the snapshot. */
static struct bytes value_inside(const struct store *store, const char *what, MDB_val value)
{
    const uint8_t *data = value.mv_data;
    if (data < store->map || value.mv_size > store->used_bytes ||
        (uint64_t)(data - store->map) > store->used_bytes - value.mv_size)
        store_damaged(store, "%s lies outside data.mdb", what);
    return (struct bytes){data, value.mv_size};
}

static int get(const struct store *store, MDB_dbi dbi, const char *what, struct bytes key,
               struct bytes *value)
{
    MDB_val k = {.mv_size = key.size, .mv_data = (void *)(uintptr_t)key.data}, v;
    int rc = mdb_get(store->txn, dbi, &k, &v);
    if (rc != 0 && rc != MDB_NOTFOUND)
        store_damaged(store, "%s cannot be looked up: %s", what, mdb_strerror(rc));
    if (rc == 0)
        *value = value_inside(store, what, v);
    return rc;
}

static void check_format(const struct store *store)
{
    static const char key[] = "version";
    struct bytes value;
    uint32_t version;
    MDB_dbi meta = database(store, "meta");
    if (get(store, meta, "its format version", (struct bytes){(const uint8_t *)key, sizeof(key) - 1},
            &value) != 0 ||
        value.size != sizeof(version))
        store_damaged(store, "its format version is missing");
    memcpy(&version, value.data, sizeof(version));
    if (version < STORE_FORMAT_MIN || version > STORE_FORMAT)
        die("the store %s has format %u, and this restorer reads %d and %d: use the version that wrote it",
            store->path, version, STORE_FORMAT_MIN, STORE_FORMAT);
}

/* LMDB 0.9 tells where its map lies only when that was asked for (MDB_FIXEDMAP), but the kernel knows: it
 * is the one shared mapping without PROT_WRITE that this process has. Inode numbers are of no use, since
 * overlayfs shows others. */
static const uint8_t *mapped_at(const struct store *store)
{
    char line[PROC_MAPS_LINE_BYTES], access[8];
    unsigned long long start = 0;
    bool found = false;
    FILE *maps = proc_stream(getpid(), "maps");
    if (maps == NULL)
        die("cannot read the maps of the launcher: %s; mount /proc", strerror(errno));
    while (!found && fgets(line, sizeof(line), maps) != NULL)
        found = sscanf(line, "%llx-%*x %7s", &start, access) == 2 && strcmp(access, "r--s") == 0;
    fclose(maps);
    if (!found)
        store_damaged(store, "data.mdb is not mapped");
    return (const uint8_t *)(uintptr_t)start;
}

void store_open(struct store *store, const char *path)
{
    struct store_meta meta;
    MDB_envinfo info;
    memset(store, 0, sizeof(*store));
    store->path = path;
    store_guard_begin(path);
    env_open(store);
    check_file(store, &meta);
    if (mdb_env_info(store->env, &info) != 0)
        store_damaged(store, "LMDB cannot describe it");
    store->map = mapped_at(store);
    store->used_bytes = meta.used_bytes < info.me_mapsize ? meta.used_bytes : info.me_mapsize;
    prefetch_roots(store);
    check_format(store);
    store->refs = database(store, "refs");
    store->images = database(store, "images");
    store->maps = database(store, "maps");
    store->chunks = database(store, "chunks");
    store->hot = database(store, "hot");
}

uint64_t store_find(const struct store *store, const char *name, uint32_t *check)
{
    struct bytes key = {(const uint8_t *)name, strlen(name)}, value;
    struct ref ref;
    if (key.size > (size_t)mdb_env_get_maxkeysize(store->env) ||
        get(store, store->refs, "the name", key, &value) == MDB_NOTFOUND)
        die("no image of this name in the store %s: see 'restorer list'", store->path);
    if (value.size != sizeof(ref))
        store_damaged(store, "the entry of this name has %zu bytes", value.size);
    memcpy(&ref, value.data, sizeof(ref));
    *check = ref.check;
    return ref.id;
}

static struct bytes numbered(const struct store *store, MDB_dbi dbi, const char *what, uint64_t number)
{
    uint64_t key = __builtin_bswap64(number);
    struct bytes value;
    if (get(store, dbi, what, (struct bytes){(const uint8_t *)&key, sizeof(key)}, &value) == MDB_NOTFOUND)
        store_damaged(store, "%s (number %llu) is missing", what, (unsigned long long)number);
    prefetch_bytes(store, (uint64_t)(value.data - store->map), value.size);
    return value;
}

struct bytes store_image(const struct store *store, uint64_t id)
{
    return numbered(store, store->images, "the image", id);
}

struct bytes store_page_index(const struct store *store, uint64_t map_id)
{
    return numbered(store, store->maps, "the page index", map_id);
}

bool store_hot(const struct store *store, uint64_t id, struct bytes *value)
{
    uint64_t key = __builtin_bswap64(id);
    return get(store, store->hot, "the working set", (struct bytes){(const uint8_t *)&key, sizeof(key)},
               value) == 0;
}

int store_data_fd(const struct store *store)
{
    int fd = -1;
    int rc = mdb_env_get_fd(store->env, &fd);
    if (rc != 0)
        die("cannot get at data.mdb of the store %s: %s", store->path, mdb_strerror(rc));
    return fd;
}

void store_close(struct store *store)
{
    if (store->env == NULL)
        return;
    mdb_txn_abort(store->txn);
    mdb_env_close(store->env);
    store->env = NULL;
}
