#include "trainers/job.h"

namespace trestle::trainers {

void run_job(Job& job, JobContext& context) {
  const std::int64_t rank = context.world.rank(), world = context.world.size();
  const IndexRange mine{job.size() * rank / world, job.size() * (rank + 1) / world};
  context.world.agreed([&] { job.run(mine, context); });
  job.finish(context);
}

}  // namespace trestle::trainers
