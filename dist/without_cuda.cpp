// What a build without CUDA says where dist/cuda/ would answer.
#ifndef TRESTLE_WITH_CUDA
#include "dist/binding.h"
#include "dist/gpu_assignment.h"
#include "dist/nccl_collectives.h"
#include "dist/nccl_versions.h"

namespace trestle::dist {

VisibleGpus visible_gpus() { return {.host = host_name(), .uuids = {}}; }

NcclVersions nccl_versions() { return {}; }

std::unique_ptr<Collectives> make_nccl_collectives(const Communicator& communicator, int,
                                                   const NcclOptions&, std::string_view) {
  communicator.agreed([] {
    fail(ExitCode::environment,
         "NCCL was asked for, and this program was built without CUDA. Build with "
         "-DTRESTLE_CUDA=ON, or run on the CPU.");
  });
  return nullptr;  // not reached
}

}  // namespace trestle::dist
#endif
