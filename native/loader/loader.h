/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RESTORER_LOADER_H
#define RESTORER_LOADER_H
#include "resident.h"

/* See run_fn and start_fn in resident.h. */
int loader_run(const struct wr_runtime *rt, uint32_t program);
void loader_start(const struct wr_runtime *rt, uint32_t program);

/* native/pager: serves wr_process `process` until it is loaded or gone. */
_Noreturn void pager_main(const struct wr_runtime *rt, uint32_t process);

/* A thread of that pager: decodes what it will need next. */
_Noreturn void ahead_main(const struct wr_runtime *rt);
_Noreturn void storm_main(const struct wr_runtime *rt);

#endif
