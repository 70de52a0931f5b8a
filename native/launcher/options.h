/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line of restorer-launch, which is that of `restorer restore`.
 */
#ifndef RESTORER_OPTIONS_H
#define RESTORER_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

#define PUBLISH_MAX 64

struct publish {
    uint16_t new_port;
    uint16_t old_port;
    uint32_t protocol; /* IPPROTO_TCP or IPPROTO_UDP */
};

struct options {
    const char *name;
    const char *store; /* resolved: option, environment or default */
    const char *pidfile;
    const char *stats;
    uint32_t fill; /* enum wr_fill */
    bool detach;
    bool namespace; /* --pid ns */
    bool continue_time;
    bool force_files;
    bool json;
    bool record;
    size_t publish_count;
    struct publish publish[PUBLISH_MAX];
};

/* Ends the process on --help, --version (0) and on usage errors (125). */
void options_parse(struct options *options, int argc, char **argv);

#endif
