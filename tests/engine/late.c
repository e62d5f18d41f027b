/* A team of threads one of which is taken off its core in the middle of a piece, for test_team.py.

   Each phase adds 1 to each of its numbers, so that nothing may be done twice, left out, or done in
   another order. A thread that is "held" has claimed a piece and goes on only when another has come
   to a later phase: with barriers, never. */

#include "team.h"
#include <pthread.h>
#include <string.h>

typedef struct {
    Team team;
    int64_t phases, count, hold, until;
    int64_t *numbers;             /* [count] */
    _Atomic int64_t reached;      /* the latest phase that anybody computes in */
    _Atomic int64_t held, errors; /* held: how often somebody was */
} Run;

typedef struct {
    Run *run;
    int64_t me;
} Worker;

static void *work(void *argument) {
    Worker *worker = argument;
    Run *run = worker->run;
    Thread thread = {&run->team, worker->me, 0};
    for (int64_t number = 1; number <= run->phases; number++) {
        Phase phase = next_phase(&thread, run->count);
        for (int64_t piece; claim(&phase, &piece);) {
            int64_t seen = atomic_load(&run->reached);
            while (seen < number && !atomic_compare_exchange_weak(&run->reached, &seen, number)) {}
            int64_t result = run->numbers[piece] + 1;
            int64_t none = 0;
            if (number == run->hold && atomic_compare_exchange_strong(&run->held, &none, 1))
                while (atomic_load(&run->reached) < run->until) sched_yield();
            if (!may_commit(&phase, piece)) continue;
            if (result != number) atomic_fetch_add(&run->errors, 1);
            run->numbers[piece] = result;
            committed(&phase);
        }
    }
    return 0;
}

/* 0 if every number was counted up once by each phase. `hold`: the phase in which the first to claim
   a piece is held until somebody computes in phase `until`. */
int64_t late_run(int64_t threads, int64_t phases, int64_t count, int64_t hold, int64_t until) {
    Run run = {.phases = phases, .count = count, .hold = hold, .until = until};
    int64_t numbers[count];
    memset(numbers, 0, sizeof numbers);
    run.numbers = numbers;
    if (!assemble(&run.team, threads, count)) return -1;
    pthread_t started[threads];
    Worker workers[threads];
    for (int64_t i = 0; i < threads; i++) {
        workers[i] = (Worker){&run, i};
        pthread_create(started + i, 0, work, workers + i);
    }
    for (int64_t i = 0; i < threads; i++) pthread_join(started[i], 0);
    for (int64_t i = 0; i < count; i++) run.errors += numbers[i] != phases;
    if (hold && !run.held) run.errors++;
    dismiss(&run.team);
    return run.errors;
}
