#include "trainers/options.h"

#include "trainers/optim/adamw.h"
#include "trainers/optim/ema.h"
#include "trainers/optim/schedule.h"
#include "trainers/task.h"

namespace trestle::trainers {

void RunOptions::describe(configs::Fields& f) {
  f.field("task", task, {.help = "what is trained: the name of a folder in trainers/"});
  f.field("name", name,
          {.help = "name of the run directory; empty: the recipe's file name", .may_change = true});
  f.field("seed", seed,
          {.help = "seed of the initial weights, the data order and all noise", .min = 0});
  f.field(
      "lease_timeout_s", lease_timeout_s,
      {.help = "a run elsewhere that has shown no heartbeat in the run directory for so long is "
               "taken for dead, and a new start takes over; longer than its file system ever "
               "hangs (one that is seen to be dead, or is this job before a requeue, is not "
               "waited for)",
       .unit = "s",
       .min = 1,
       .may_change = true});
}

void TrainOptions::describe(configs::Fields& f) {
  f.field(
      "steps", steps,
      {.help =
           "optimizer steps of the whole run; raise it to go on with a complete one (what is left "
           "of a cosine schedule then stretches)",
       .unit = "steps",
       .min = 1,
       .may_change = true});
  f.field("global_batch", global_batch,
          {.help = "samples of a step, over all ranks", .unit = "samples", .min = 1});
  f.field("micro_batch", micro_batch,
          {.help = "samples a rank computes at once; the rest of its share is accumulated",
           .unit = "samples",
           .min = 1});
  f.field("max_grad_norm", max_grad_norm,
          {.help = "gradients are scaled down to this global norm; 0: never", .min = 0});
  f.field(
      "on_nonfinite", on_nonfinite,
      {.help = "a step with a loss or gradient that is not finite: skip it (weights, moments and "
               "averages stay; data and schedule go on), or stop with exit code 6",
       .choices = {"skip", "stop"},
       .may_change = true});
  f.field("max_skips", max_skips,
          {.help = "more skipped steps in a row than this stop the run with exit code 6",
           .unit = "steps",
           .min = 0,
           .needs = {"on_nonfinite", "skip"},
           .may_change = true});
  f.field(
      "checkpoint_every", checkpoint_every,
      {.help = "gradient checkpointing: backward recomputes the activations of this many blocks "
               "at a time instead of keeping them; 0: keeps all",
       .unit = "blocks",
       .min = 0,
       .may_change = true});
}

void StopOptions::describe(configs::Fields& f) {
  f.field("stop_signals", stop_signals,
          {.help = "signals that end the run after the current step, saved, with exit code 75; INT "
                   "always does. TERM or USR2 left out is ignored; with USR1 in, it no longer "
                   "writes the flight rings",
           .choices = {"TERM", "USR2", "USR1", "HUP", "QUIT", "XCPU"},
           .may_change = true});
  f.field("stop_before_end_s", stop_before_end_s,
          {.help = "in a Slurm job: so long before the job's time is over the run ends as if by a "
                   "signal; earlier where the longest step and save so far need more; 0: Slurm is "
                   "not asked",
           .unit = "s",
           .min = 0,
           .may_change = true});
}

void DistOptions::describe(configs::Fields& f) {
  f.field("shard", shard,
          {.help = "what is divided over the ranks: nothing, the optimizer's state, masters and "
                   "averages, or the gradients, too (each micro batch is then reduced)",
           .choices = {"none", "optimizer", "gradients"},
           .may_change = true});
  f.field("wire_dtype", wire_dtype,
          {.help = "what gradients travel in; auto: what they are summed in. With bf16 each rank's "
                   "contribution is rounded, the sum is not",
           .choices = {"auto", "fp32", "bf16"}});
  f.field("two_level", two_level,
          {.help = "gradients are summed inside each host, then between hosts, and parameters are "
                   "gathered so: fewer bytes between hosts, another order of summation. auto: on "
                   "two or more hosts that hold equally many ranks, at least two; true: refuses to "
                   "start elsewhere. With wire_dtype bf16 each host's sum is rounded, too",
           .choices = {"auto", "true", "false"},
           .may_change = true});
  f.field("bucket_bytes", bucket_bytes,
          {.help = "gradients are reduced in buckets of about this size; 0: 25 MB or 1 MB a rank, "
                   "whichever is more, but at most an eighth of them",
           .unit = "bytes",
           .min = 0,
           .may_change = true});
  f.field("verify_every", verify_every,
          {.help = "steps between comparisons of all ranks' parameters, bit for bit (a digest of "
                   "them; one is always made at the start); 0: no others",
           .unit = "steps",
           .min = 0,
           .may_change = true});
  f.field("paranoid", paranoid,
          {.help = "make each step a second time, plainly (synchronous, unsharded), and compare "
                   "gradients and weights; slow, and holds the state twice",
           .may_change = true});
  f.field("threads", threads,
          {.help = "compute threads of a rank; 0: OMP_NUM_THREADS, else the rank's cores",
           .unit = "threads",
           .min = 0,
           .max = 1024,
           .may_change = true});
}

void WatchOptions::describe(configs::Fields& f) {
  f.field("watchdog", watchdog,
          {.help = "a thread a rank that notices dead and stuck ranks, over TCP sockets of its own",
           .may_change = true});
  const auto timeout = [&](std::string_view key, double& value, std::string_view help) {
    f.field(
        key, value,
        {.help = help, .unit = "s", .above = 0, .needs = {"watchdog", true}, .may_change = true});
  };
  timeout("startup_timeout_s", startup_timeout_s,
          "a rank that shows no progress for so long before its first step ends the run");
  timeout("step_timeout_s", step_timeout_s,
          "the same within a step; longer than the slowest step (data included) ever takes");
  timeout("checkpoint_timeout_s", checkpoint_timeout_s,
          "the same while a checkpoint is written; longer than any write ever takes");
  timeout("silence_timeout_s", silence_timeout_s,
          "a rank whose watchdog says nothing for so long is taken for lost with its host");
  f.field("flight_entries", flight_entries,
          {.help = "collective calls that each rank remembers, for logs/flight-NNNNN.jsonl",
           .unit = "calls",
           .min = 16,
           .max = 1e6,
           .needs = {"watchdog", true},
           .may_change = true});
  f.field(
      "straggler_every", straggler_every,
      {.help = "steps between comparisons of the ranks' own step times, which name a slow rank; "
               "0: never",
       .unit = "steps",
       .min = 0,
       .may_change = true});
}

void CheckpointOptions::describe(configs::Fields& f) {
  f.field(
      "every", every,
      {.help = "steps between checkpoints (one is always written at the end); 0: only at the end",
       .unit = "steps",
       .min = 0,
       .may_change = true});
  f.field("async", async,
          {.help = "write checkpoints while the training goes on; without it every save is waited "
                   "for. The last one always is",
           .may_change = true});
  f.field(
      "staging_bytes", staging_bytes,
      {.help = "memory that a rank copies its state to before it is written, in whole blocks of "
               "4 MiB; 0: as much as its state has. With less, an update may have to wait for "
               "the file system",
       .unit = "bytes",
       .min = 0,
       .may_change = true});
  f.field("timeout_s", timeout_s,
          {.help = "a rank's shard that is not on disk by then fails the save, and so does a "
                   "checkpoint that is not complete so long after its shards; shorter than "
                   "dist.checkpoint_timeout_s",
           .unit = "s",
           .above = 0,
           .may_change = true});
  f.field("keep_last", keep_last,
          {.help = "the newest so many checkpoints stay; older ones are deleted once a new one is "
                   "complete. 0: all stay",
           .unit = "checkpoints",
           .min = 0,
           .may_change = true});
  f.field("keep_every", keep_every,
          {.help = "checkpoints of every so many steps stay, too; 0: none besides keep_last",
           .unit = "steps",
           .min = 0,
           .may_change = true});
  f.field(
      "index", index,
      {.help = "write index.h5 into each checkpoint: every tensor whole, for h5py. Trestle does "
               "not read it",
       .may_change = true});
}

void SampleOptions::describe(configs::Fields& f) {
  f.field("every", every,
          {.help = "steps between picture grids; 0: only at the end",
           .unit = "steps",
           .min = 0,
           .may_change = true});
  f.field("pictures", pictures,
          {.help = "held-out samples in a grid",
           .unit = "pictures",
           .min = 1,
           .max = 256,
           .may_change = true});
  f.field("weights", weights,
          {.help = "what pictures are made and evaluated with: \"ema\" (the trained weights where "
                   "no average is kept), \"ema.<name>\" of ema.more, or \"model\"",
           .may_change = true});
}

void LogOptions::describe(configs::Fields& f) {
  f.field("every", every,
          {.help = "steps between progress lines in a log file",
           .unit = "steps",
           .min = 1,
           .may_change = true});
  f.field("level", level,
          {.help = "least important messages shown",
           .choices = {"debug", "info", "warn", "error"},
           .may_change = true});
  f.field(
      "tensorboard", tensorboard,
      {.help = "numbers and pictures for TensorBoard, in the run directory", .may_change = true});
}

namespace {

void describe_loop(configs::Schema& schema) {
  schema.section<TrainOptions>("train");
  schema.section<StopOptions>("train");
  schema.section<AdamWOptions>("optim");
  schema.section<ScheduleOptions>("optim");
  schema.section<DistOptions>("dist");
  schema.section<WatchOptions>("dist");
  schema.section<CheckpointOptions>("checkpoint");
  schema.section<SampleOptions>("sample");
  schema.section<LogOptions>("log");
}

}  // namespace

void describe_group(configs::Schema& schema, const std::string& group) {
  schema.overlay<AdamWOptions>("optim." + group, "optim");
  schema.overlay<ScheduleOptions>("optim." + group, "optim");
}

configs::Schema schema_of(const configs::Recipe& recipe) {
  configs::Schema schema;
  schema.section<RunOptions>("run");
  task_kind_of(recipe).describe(schema);
  describe_loop(schema);
  describe_averages(schema, recipe);
  return schema;
}

std::string reference_page() {
  std::vector<configs::ReferenceChapter> chapters(1);
  chapters[0].title = "Every task";
  chapters[0].introduction = "What the training loop reads, whatever is trained.";
  chapters[0].schema.section<RunOptions>("run");
  describe_loop(chapters[0].schema);
  describe_averages(chapters[0].schema);
  for (const TaskKind* kind : task_kinds()) {
    chapters.push_back({.title = fmt::format("run.task = \"{}\"", kind->name),
                        .introduction = fmt::format("{}.", kind->summary),
                        .schema = {}});
    kind->describe(chapters.back().schema);
  }
  return configs::reference_markdown(chapters);
}

}  // namespace trestle::trainers
