#include "trainers/job_end.h"

#include "base/error.h"
#include "base/log.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace trestle::trainers {
namespace {

using std::chrono::duration_cast;
using std::chrono::seconds;

/// A job on a clock of its own, at whose beginning it is second 0.
struct Job {
  JobEnd::TimePoint now{seconds(1'000'000)};
  std::optional<JobEnd::TimePoint> end;
  bool squeue_fails = false;
  int questions = 0, stops = 0;

  explicit Job(std::optional<int> end_s) { ends_at(end_s); }
  void ends_at(std::optional<int> end_s) {
    end = end_s ? std::optional(JobEnd::TimePoint(seconds(1'000'000 + *end_s))) : std::nullopt;
  }
  void at(double s) {
    now = JobEnd::TimePoint(seconds(1'000'000)) +
          duration_cast<JobEnd::Clock::duration>(std::chrono::duration<double>(s));
  }
  JobEnd::Parts parts(double before_end_s) {
    return {.before_end_s = before_end_s,
            .ask =
                [this](const std::function<bool()>&) {
                  ++questions;
                  if (squeue_fails) fail(ExitCode::environment, "squeue is not there");
                  return end;
                },
            .stop = [this] { ++stops; },
            .now = [this] { return now; }};
  }
};

/// The second at which the run is asked to stop; it is polled each second, until `last`.
int stopped_at(Job& job, JobEnd& job_end, int first, int last) {
  for (int second = first; second <= last; ++second) {
    job.at(second);
    if (job_end.poll()) return second;
  }
  return -1;
}

TEST(JobEnd, TheRunStopsSoLongBeforeTheEnd) {
  Job job(3600);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 3600), 3480);
  EXPECT_EQ(job.stops, 1);
}

TEST(JobEnd, TheRunIsAskedToStopOnce) {
  Job job(100);
  JobEnd job_end(job.parts(120));
  EXPECT_TRUE(job_end.poll());
  EXPECT_TRUE(job_end.poll());
  EXPECT_EQ(job.stops, 1);
}

TEST(JobEnd, SlurmIsAskedOnceAMinute) {
  Job job(100'000);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 600), -1);
  EXPECT_EQ(job.questions, 11);
}

TEST(JobEnd, AJobWithoutALimitIsNotStoppedButAskedOn) {
  Job job(std::nullopt);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 299), -1);
  job.ends_at(1000);  // the administrator gives it one
  EXPECT_EQ(stopped_at(job, job_end, 300, 2000), 880);
}

TEST(JobEnd, ALongerLimitCounts) {
  Job job(600);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 400), -1);
  job.ends_at(7200);
  EXPECT_EQ(stopped_at(job, job_end, 401, 7200), 7080);
}

TEST(JobEnd, AShorterLimitCountsWithinAMinute) {
  Job job(7200);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 90), -1);
  job.ends_at(200);
  EXPECT_EQ(stopped_at(job, job_end, 91, 7200), 120);  // the next question
}

TEST(JobEnd, TheSaveMustFit) {
  Job job(3600);
  JobEnd job_end(job.parts(120));
  job_end.took_step(20);
  job_end.took_save(200);
  job_end.took_step(5);
  job_end.took_save(100);
  EXPECT_DOUBLE_EQ(job_end.needed_s(), 20 + 1.5 * 200 + 10);
  EXPECT_EQ(stopped_at(job, job_end, 0, 3600), 3600 - 330);
}

TEST(JobEnd, AShortSaveChangesNothing) {
  Job job(3600);
  JobEnd job_end(job.parts(120));
  job_end.took_step(1);
  job_end.took_save(2);
  EXPECT_DOUBLE_EQ(job_end.needed_s(), 120);
}

TEST(JobEnd, AStepThatIsLongerThanTheTimeLeftIsNotBegun) {
  Job job(3600);
  JobEnd job_end(job.parts(120));
  job_end.took_step(600);
  EXPECT_EQ(stopped_at(job, job_end, 0, 3600), 3600 - 610);
}

TEST(JobEnd, WhatSqueueLastSaidCountsWhenItFails) {
  Job job(600);
  JobEnd job_end(job.parts(120));
  EXPECT_EQ(stopped_at(job, job_end, 0, 100), -1);
  job.squeue_fails = true;
  EXPECT_EQ(stopped_at(job, job_end, 101, 600), 480);
}

TEST(JobEnd, ASqueueThatNeverAnswersStopsNothingAndIsSaidOnce) {
  Job job(600);
  job.squeue_fails = true;
  JobEnd job_end(job.parts(120));
  set_log_level(LogLevel::warn);
  testing::internal::CaptureStderr();
  EXPECT_EQ(stopped_at(job, job_end, 0, 600), -1);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("when the job ends is not known (squeue is not there)"), std::string::npos)
      << said;
  EXPECT_EQ(said.find("not known"), said.rfind("not known")) << said;
  EXPECT_EQ(job.stops, 0);
}

TEST(JobEnd, AnEndInThePastStopsAtOnce) {
  Job job(-5);
  JobEnd job_end(job.parts(120));
  EXPECT_TRUE(job_end.poll());
}

TEST(JobEnd, TheThreadAsksAndStops) {
  std::atomic<int> stops{0};
  JobEnd job_end({.before_end_s = 3600,
                  .ask = [](const std::function<bool()>&) { return JobEnd::Clock::now(); },
                  .stop = [&] { ++stops; }});
  job_end.watch();
  for (int i = 0; i < 1000 && stops == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(stops, 1);
}

TEST(JobEnd, AQuestionThatHangsKeepsNoRunFromLeaving) {
  std::atomic<bool> asked{false}, gave_up{false};
  {
    JobEnd job_end(
        {.before_end_s = 1,
         .ask = [&](const std::function<bool()>& give_up) -> std::optional<JobEnd::TimePoint> {
           asked = true;
           while (!give_up()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
           gave_up = true;
           fail(ExitCode::environment, "given up");
         },
         .stop = [] {}});
    job_end.watch();
    while (!asked) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(gave_up);
}

}  // namespace
}  // namespace trestle::trainers
