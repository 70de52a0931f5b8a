/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <getopt.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "say.h"

#ifndef RESTORER_VERSION
#define RESTORER_VERSION "0.1.0"
#endif

enum long_only {
    OPT_STORE = 256,
    OPT_PIDFILE,
    OPT_FILL,
    OPT_PID,
    OPT_TIME,
    OPT_FORCE,
    OPT_JSON,
    OPT_STATS,
    OPT_RECORD,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"store", required_argument, NULL, OPT_STORE},     {"detach", no_argument, NULL, 'd'},
    {"pidfile", required_argument, NULL, OPT_PIDFILE}, {"fill", required_argument, NULL, OPT_FILL},
    {"pid", required_argument, NULL, OPT_PID},         {"time", required_argument, NULL, OPT_TIME},
    {"force-files", no_argument, NULL, OPT_FORCE},     {"json", no_argument, NULL, OPT_JSON},
    {"stats", required_argument, NULL, OPT_STATS},     {"record", no_argument, NULL, OPT_RECORD},
    {"publish", required_argument, NULL, 'p'},         {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPT_VERSION},       {NULL, 0, NULL, 0},
};

static const char help_text[] =
    "Usage: restorer-launch [OPTIONS] NAME\n"
    "\n"
    "Brings the process of image NAME back. In the foreground it behaves as the process would: the "
    "terminal,\n"
    "signals and the exit code are its own; 125 means that the restore itself failed.\n"
    "\n"
    "  --store DIR                       the store (else $RESTORER_STORE, else /var/lib/restorer for root,\n"
    "                                    else ${XDG_DATA_HOME:-~/.local/share}/restorer)\n"
    "  -d, --detach                      print the PID and return once the process runs\n"
    "  --pidfile FILE                    write the PID there once the process runs\n"
    "  --fill background|none|before     bring memory when idle (default), only on demand, or before it "
    "runs\n"
    "  --pid same|ns                     the PIDs of the checkpoint (default), or a PID namespace of its "
    "own\n"
    "  --time machine|continue           the clocks since boot are the machine's (default), or go on from "
    "the\n"
    "                                    checkpoint; they do where they would go back\n"
    "  --force-files                     do not refuse files that changed since the checkpoint\n"
    "  -p, --publish NEW:OLD[/tcp|/udp]  listen on port NEW where the process listened on OLD\n"
    "  --json                            report as one JSON object\n"
    "  --stats FILE                      append counters as JSON lines; - is stderr\n"
    "  --record                          note which memory is needed first, for 'restorer optimize'\n"
    "  --help, --version\n";

static uint32_t parse_fill(const char *word)
{
    if (strcmp(word, "background") == 0)
        return WR_FILL_BACKGROUND;
    if (strcmp(word, "none") == 0)
        return WR_FILL_NONE;
    if (strcmp(word, "before") == 0)
        return WR_FILL_BEFORE;
    die_usage("--fill %s: must be background, none or before", word);
}

static bool parse_pid(const char *word)
{
    if (strcmp(word, "same") == 0)
        return false;
    if (strcmp(word, "ns") == 0)
        return true;
    die_usage("--pid %s: must be same or ns", word);
}

static bool parse_time(const char *word)
{
    if (strcmp(word, "machine") == 0)
        return false;
    if (strcmp(word, "continue") == 0)
        return true;
    die_usage("--time %s: must be machine or continue", word);
}

/* Advances `text` past a port number; 0 when there is none. */
static uint16_t parse_port(const char **text)
{
    unsigned long value = 0;
    const char *p = *text;
    while (*p >= '0' && *p <= '9' && value <= 65535)
        value = value * 10 + (unsigned long)(*p++ - '0');
    *text = p;
    return value <= 65535 ? (uint16_t)value : 0;
}

static void parse_publish(struct options *options, const char *text)
{
    if (options->publish_count == PUBLISH_MAX)
        die_usage("--publish: at most %d ports can be replaced", PUBLISH_MAX);
    struct publish *publish = &options->publish[options->publish_count++];
    const char *p = text;
    publish->new_port = parse_port(&p);
    bool valid = publish->new_port != 0 && *p == ':';
    if (valid) {
        p++;
        publish->old_port = parse_port(&p);
        valid = publish->old_port != 0;
    }
    publish->protocol = strcmp(p, "/udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP;
    if (!valid || (*p != '\0' && strcmp(p, "/tcp") != 0 && strcmp(p, "/udp") != 0))
        die_usage("--publish %s: must be NEW:OLD, NEW:OLD/tcp or NEW:OLD/udp with ports from 1 to 65535",
                  text);
}

static void print_and_leave(const char *text)
{
    fputs(text, stdout);
    exit(fflush(stdout) == 0 ? 0 : EXIT_OWN_FAILURE);
}

static const char *non_empty(const char *option, const char *value)
{
    if (*value == '\0')
        die_usage("%s: must not be empty", option);
    return value;
}

static void take(struct options *options, int option, const char *value)
{
    switch (option) {
    case 'd':
        options->detach = true;
        break;
    case 'p':
        parse_publish(options, value);
        break;
    case 'h':
        print_and_leave(help_text);
        break;
    case OPT_VERSION:
        print_and_leave("restorer-launch " RESTORER_VERSION "\n");
        break;
    case OPT_STORE:
        options->store = non_empty("--store", value);
        break;
    case OPT_PIDFILE:
        options->pidfile = non_empty("--pidfile", value);
        break;
    case OPT_STATS:
        options->stats = non_empty("--stats", value);
        break;
    case OPT_FILL:
        options->fill = parse_fill(value);
        break;
    case OPT_PID:
        options->namespace = parse_pid(value);
        break;
    case OPT_TIME:
        options->continue_time = parse_time(value);
        break;
    case OPT_FORCE:
        options->force_files = true;
        break;
    case OPT_JSON:
        options->json = true;
        break;
    case OPT_RECORD:
        options->record = true;
        break;
    }
}

static const char *default_store(void)
{
    static char path[PATH_MAX];
    const char *from = getenv("RESTORER_STORE");
    if (from != NULL && *from != '\0')
        return from;
    if (geteuid() == 0)
        return "/var/lib/restorer";
    const char *data = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    int n;
    if (data != NULL && *data != '\0')
        n = snprintf(path, sizeof(path), "%s/restorer", data);
    else if (home != NULL && *home != '\0')
        n = snprintf(path, sizeof(path), "%s/.local/share/restorer", home);
    else
        die_usage("no store: neither --store, RESTORER_STORE, XDG_DATA_HOME nor HOME is set");
    if (n < 0 || (size_t)n >= sizeof(path))
        die_usage("the path of the store is too long: use --store");
    return path;
}

/* getopt has not moved past a cluster such as -xd when it refuses the first letter, and names every option
 * that has a letter by that, --detach=yes too. */
static void refuse_option(int kind, const char *word, const char *next)
{
    char letter[3] = {'-', (char)optopt, '\0'};
    bool in_cluster = next != NULL && next[0] == '-' && next[1] != '-' && strchr(next, optopt) != NULL;
    bool is_long = strncmp(word, "--", 2) == 0 && !in_cluster;
    const char *option = is_long || optopt == 0 || optopt > 127 ? word : letter;
    if (kind == ':')
        die_usage("%s needs a value: see restorer-launch --help", option);
    die_usage("unknown option %s: see restorer-launch --help", option);
}

void options_parse(struct options *options, int argc, char **argv)
{
    int option;
    memset(options, 0, sizeof(*options));
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":dp:", long_options, NULL)) != -1) {
        if (option == ':' || option == '?')
            refuse_option(option, argv[optind - 1], argv[optind]);
        take(options, option, optarg);
    }
    if (optind == argc)
        die_usage("the name of an image is missing: see restorer-launch --help");
    if (optind + 1 < argc)
        die_usage("only one image can be restored at a time, but '%s' follows '%s'", argv[optind + 1],
                  argv[optind]);
    options->name = non_empty("NAME", argv[optind]);
    if (options->store == NULL)
        options->store = default_store();
}
