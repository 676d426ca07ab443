// Which NCCL this program was compiled with and which one it has loaded. LOCAL. THREADS: any.
#pragma once

namespace trestle::dist {

struct NcclVersions {
  int compiled = 0, loaded = 0;  ///< as NCCL counts: 22809 is 2.28.9; 0: built without CUDA
};

NcclVersions nccl_versions();

}  // namespace trestle::dist
