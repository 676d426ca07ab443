#include "dist/launch_check.h"

#include "base/error.h"
#include "dist/mpi_runtime.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>

namespace trestle::dist {
namespace {

using Variables = std::map<std::string, std::string>;

Environment made_of(Variables variables) {
  return [variables = std::move(variables)](const char* name) -> std::optional<std::string> {
    const auto place = variables.find(name);
    if (place == variables.end()) return std::nullopt;
    return place->second;
  };
}

std::string refusal(int mpi_size, const Variables& variables) {
  try {
    check_world(mpi_size, made_of(variables));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::environment);
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

const Variables kStepOfFour{{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"},
                            {"SLURM_PROCID", "2"}, {"SLURM_STEPID", "0"},
                            {"PMIX_RANK", "2"},    {"SLURM_STEP_NUM_TASKS", "4"}};

TEST(CheckWorld, AcceptsWhatTheLauncherStarted) {
  EXPECT_EQ(refusal(1, {}), "");
  EXPECT_EQ(refusal(4, {{"OMPI_COMM_WORLD_SIZE", "4"}}), "");
  EXPECT_EQ(refusal(4, kStepOfFour), "");
}

TEST(CheckWorld, RefusesSingletonsOfMpirun) {
  const std::string text = refusal(1, {{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_TRUE(contains(text, "mpirun started 4 processes, but MPI sees 1 rank (")) << text;
  EXPECT_TRUE(contains(text, "PATH")) << text;
}

TEST(CheckWorld, RefusesSingletonsOfSrun) {
  const std::string text = refusal(1, kStepOfFour);
  EXPECT_TRUE(contains(text, "srun started 4 tasks, but MPI sees 1 rank (")) << text;
  EXPECT_TRUE(contains(text, "srun --mpi=pmix trestle")) << text;
  EXPECT_TRUE(contains(text, "srun --mpi=list")) << text;
  EXPECT_TRUE(contains(text, "mpirun -n 4 trestle")) << text;
  EXPECT_TRUE(contains(refusal(2, kStepOfFour), "MPI sees 2 ranks"));
}

TEST(CheckWorld, TheAllocationsTasksAreNotOurs) {
  // A program alone in a batch script, which stands in an allocation of four tasks.
  EXPECT_EQ(refusal(1, {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}), "");
  EXPECT_EQ(
      refusal(1, {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}),
      "");
  // mpirun inside a step: mpirun's count is the one that matters.
  Variables nested = kStepOfFour;
  nested["OMPI_COMM_WORLD_SIZE"] = "2";
  EXPECT_EQ(refusal(2, nested), "");
  // Inherited by a shell that is no task itself (salloc).
  EXPECT_EQ(refusal(1, {{"SLURM_STEP_NUM_TASKS", "4"}}), "");
  // One component of a heterogeneous job.
  EXPECT_EQ(refusal(8, kStepOfFour), "");
}

TEST(CheckWorld, UnreadableCountsAreNoCounts) {
  EXPECT_EQ(refusal(1, {{"OMPI_COMM_WORLD_SIZE", "many"}}), "");
  EXPECT_EQ(refusal(1, {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "4(x2)"}}), "");
}

TEST(CheckLaunch, RefusesTasksThatCannotMeet) {
  check_launch(made_of({}));
  check_launch(made_of({{"OMPI_COMM_WORLD_SIZE", "4"}}));
  check_launch(made_of(kStepOfFour));
  Variables apart = kStepOfFour;
  apart.erase("PMIX_RANK");
  EXPECT_THROW(check_launch(made_of(apart)), Error);
  apart["SLURM_STEP_NUM_TASKS"] = "1";
  check_launch(made_of(apart));
  EXPECT_TRUE(is_lone_task_of_step(made_of(apart)));
  EXPECT_FALSE(is_lone_task_of_step(made_of(kStepOfFour)));
  EXPECT_FALSE(is_lone_task_of_step(made_of({})));
}

// The real library in a child process that believes to be a task of srun without PMIx.
void start_as_task_of(const char* tasks) {
  for (const char* name : {"PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"}) ::unsetenv(name);
  for (const char* name : {"SLURM_JOB_ID", "SLURM_JOBID", "SLURM_STEPID", "SLURM_STEP_ID",
                           "SLURM_PROCID", "SLURM_LOCALID"}) {
    ::setenv(name, "0", 1);
  }
  for (const char* name : {"SLURM_NODELIST", "SLURM_JOB_NODELIST"}) ::setenv(name, "node", 1);
  ::setenv("SLURM_STEP_NUM_TASKS", tasks, 1);
  int code = 0;
  try {
    MpiRuntime runtime(nullptr, nullptr);
    std::cerr << runtime.size() << " rank, SLURM_STEP_ID " << std::getenv("SLURM_STEP_ID");
  } catch (const Error& error) {
    std::cerr << error.what();
    code = static_cast<int>(error.code());
  }
  std::exit(code);
}

TEST(MpiRuntime, RefusesTasksOfSrunWithoutPmix) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(start_as_task_of("4"), testing::ExitedWithCode(4), "srun started 4 tasks, but gave");
}

TEST(MpiRuntime, StartsAloneInAnInteractiveStep) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(start_as_task_of("1"), testing::ExitedWithCode(0), "1 rank, SLURM_STEP_ID 0");
}

}  // namespace
}  // namespace trestle::dist
