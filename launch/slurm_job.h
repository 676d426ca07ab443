// The Slurm job that this process runs in.
// LOCAL. THREADS: any.
#pragma once
#include "dist/launch_check.h"
#include "trainers/job_end.h"

#include <optional>
#include <string>
#include <string_view>

namespace trestle::launch {

/// How Slurm's commands call this job: "123", or "120_3" for a task of an array, whose own number
/// may be the whole array's. Nothing outside a job.
std::optional<std::string> slurm_job(
    const dist::Environment& environment = dist::process_environment);

/// What `squeue -o %e` printed with SLURM_TIME_FORMAT=%s. Nothing for a job without a limit; throws
/// for what says no time.
std::optional<trainers::JobEnd::TimePoint> parse_end(std::string_view printed);

/// Asks squeue for the end of this job; where squeue does not answer (in a container, say) what
/// Slurm wrote into SLURM_JOB_END_TIME counts.
trainers::JobEnd::Ask ask_squeue(const std::string& job,
                                 const dist::Environment& environment = dist::process_environment);

}  // namespace trestle::launch
