/* What an encoding or an append costs a program in C:
 *
 *   latency MODEL encode|append HISTORY CALLS OUT
 *
 * HISTORY holds int32 items. OUT gets the answer (h, or the ten best items after the append), then the nanoseconds of
 * every call as int64. An append is timed on a new session that holds all of the history but its last event. */
#include <regard.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(regard_status status) {
  if (status == REGARD_OK) return;
  fprintf(stderr, "%s\n", regard_last_error());
  exit(1);
}

static int64_t now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

int main(int argc, char** argv) {
  enum { kMost = 4096, kBest = 10, kWarm = 100 };
  static int32_t history[kMost];
  regard_model* model = NULL;
  regard_model_info info = {0};
  info.struct_size = sizeof info;
  if (argc != 6) return 2;
  check(regard_model_open(argv[1], &model));
  check(regard_model_describe(model, &info));
  const int append = strcmp(argv[2], "append") == 0;
  FILE* file = fopen(argv[3], "rb");
  if (file == NULL) return 2;
  const int64_t n = (int64_t)fread(history, sizeof *history, kMost, file), calls = atol(argv[4]);
  fclose(file);

  const int64_t offsets[] = {0, n};
  regard_histories histories = {0};
  histories.struct_size = sizeof histories;
  histories.items = history, histories.offsets = offsets, histories.n = 1;
  float* h = malloc((size_t)info.dim * sizeof *h);
  int64_t* taken = malloc((size_t)calls * sizeof *taken);
  int32_t items[kBest];
  float scores[kBest];
  uint8_t flags[1];
  regard_recommend_args args = {0};
  args.struct_size = sizeof args;
  args.k = kBest, args.items = items, args.scores = scores, args.flags = flags;

  for (int64_t i = -kWarm; i < calls; ++i) {
    regard_session* session = NULL;
    if (append) {
      check(regard_session_open(model, &session));
      check(regard_session_append(session, history, NULL, n - 1));
    }
    const int64_t begin = now();
    check(append ? regard_session_append(session, history + n - 1, NULL, 1) : regard_encode(model, &histories, h));
    const int64_t end = now();
    if (i >= 0) taken[i] = end - begin;
    if (append) {
      check(regard_session_recommend(session, &args));
      check(regard_session_close(session));
    }
  }

  file = fopen(argv[5], "wb");
  if (file == NULL) return 2;
  if (append)
    fwrite(items, sizeof *items, kBest, file);
  else
    fwrite(h, sizeof *h, (size_t)info.dim, file);
  fwrite(taken, sizeof *taken, (size_t)calls, file);
  fclose(file);
  free(h), free(taken);
  check(regard_model_close(model));
  return 0;
}
