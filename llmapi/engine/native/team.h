/* How threads share a step, without barriers.

   A step is a row of phases, a phase a number of pieces, and no piece begins before the phase
   before is finished. Where threads meet at barriers, one that the kernel takes off its core holds
   up all others until it is back, and another process that wants a tenth of one core costs a tenth
   of them all. So here they claim pieces, each from its own share first (memory is read fastest
   in a row) and then from the others'. Who finds nothing left to claim waits a moment, and then
   computes once more what somebody has claimed and not delivered.

   A piece is computed into the thread's own memory and then committed, by whoever is there first:
   a thread that comes back late delivers nothing, neither twice nor into a later phase. What a
   piece is does not depend on who computes it, so neither does the result.

     Phase phase = next_phase(thread, count);
     for (int64_t piece; claim(&phase, &piece);) {
         ... compute, writing to no memory that others see ...
         if (!may_commit(&phase, piece)) continue;
         ... write ...
         committed(&phase);
     } */

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

/* Looks at the others' progress, some 10 microseconds, before a piece is computed again: about as
   long as a piece takes. */
#define PATIENCE 300

typedef struct { /* a thread's; in the upper half of each number the phase that it is of */
    _Alignas(64) _Atomic uint64_t claimed; /* pieces of its share, by whomever */
    _Alignas(64) _Atomic uint64_t done;    /* pieces that it committed, of whomever's share */
} Seat;

typedef struct {
    int64_t size;
    Seat *seats;
    _Atomic uint32_t *taken; /* of each piece: the last phase in which somebody began to commit it */
} Team;

typedef struct {
    Team *team;
    int64_t me;
    uint32_t phase; /* the first is 1 */
} Thread;

typedef struct {
    Team *team;
    int64_t me, count, asked; /* asked: how many shares are known to be claimed as a whole */
    int64_t spins;
    uint32_t number;
} Phase;

/* For phases of `most` pieces at most. False: there is no memory. */
static int assemble(Team *team, int64_t size, int64_t most) {
    team->size = size;
    team->taken = calloc((size_t)most, sizeof *team->taken);
    team->seats = aligned_alloc(64, (size_t)size * sizeof *team->seats);
    if (!team->taken || !team->seats) return 0;
    for (int64_t i = 0; i < size; i++) {
        atomic_init(&team->seats[i].claimed, 0);
        atomic_init(&team->seats[i].done, 0);
    }
    return 1;
}

static void dismiss(Team *team) {
    free(team->taken);
    free(team->seats);
}

static Phase next_phase(Thread *thread, int64_t count) {
    return (Phase){thread->team, thread->me, count, 0, 0, ++thread->phase};
}

static int is_finished(const Phase *p) {
    int64_t done = 0;
    for (int64_t i = 0; i < p->team->size; i++) {
        uint64_t seen = atomic_load_explicit(&p->team->seats[i].done, memory_order_acquire);
        if (seen >> 32 > p->number) return 1;
        if (seen >> 32 == p->number) done += (int64_t)(uint32_t)seen;
    }
    return done == p->count;
}

/* The next piece to compute. False: the phase is finished. */
static int claim(Phase *p, int64_t *piece) {
    const int64_t size = p->team->size;
    for (; p->asked < size; p->asked++) {
        int64_t share = (p->me + p->asked) % size;
        int64_t first = p->count * share / size, last = p->count * (share + 1) / size;
        _Atomic uint64_t *claimed = &p->team->seats[share].claimed;
        uint64_t seen = atomic_load_explicit(claimed, memory_order_acquire);
        for (;;) {
            if (seen >> 32 > p->number) return 0; /* others are in a later phase */
            uint64_t pieces = seen >> 32 == p->number ? (uint32_t)seen : 0;
            if ((int64_t)pieces >= last - first) break;
            uint64_t more = (uint64_t)p->number << 32 | (pieces + 1);
            if (atomic_compare_exchange_weak(claimed, &seen, more)) {
                *piece = first + (int64_t)pieces;
                return 1;
            }
        }
    }
    for (;; p->spins++) {
        if (is_finished(p)) return 0;
        if (p->spins < PATIENCE) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            continue;
        }
        for (int64_t i = 0; i < p->count; i++)
            if (atomic_load_explicit(&p->team->taken[i], memory_order_relaxed) < p->number) {
                *piece = i;
                return 1;
            }
        sched_yield(); /* all that is missing is being committed */
    }
}

static int may_commit(const Phase *p, int64_t piece) {
    _Atomic uint32_t *taken = &p->team->taken[piece];
    uint32_t seen = atomic_load_explicit(taken, memory_order_relaxed);
    return seen < p->number && atomic_compare_exchange_strong(taken, &seen, p->number);
}

static void committed(const Phase *p) {
    _Atomic uint64_t *done = &p->team->seats[p->me].done;
    uint64_t seen = atomic_load_explicit(done, memory_order_relaxed);
    uint64_t before = seen >> 32 == p->number ? seen : (uint64_t)p->number << 32;
    atomic_store_explicit(done, before + 1, memory_order_release);
}
