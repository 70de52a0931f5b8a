/* SPDX-License-Identifier: Apache-2.0
 *
 * CPUs that do not go to sleep while memory is being brought: between a fault and its answer two threads wait for each
 * other, and to wake an idle CPU takes longer than the answer does. docs/decisions.md has the figures.
 */
#ifndef RESTORER_AWAKE_H
#define RESTORER_AWAKE_H

/* Asks for it, where /dev/cpu_dma_latency may be opened; else nothing happens. Forks of ours that live on must close
 * what they inherit, for the request holds until its last descriptor is closed. */
void awake_begin(void);

/* Milliseconds until awake_end is due, -1 when nothing is asked for. A restore that waits for faults for hours must not
 * keep CPUs busy for hours. */
int awake_wait_ms(void);

void awake_end(void);

#endif
