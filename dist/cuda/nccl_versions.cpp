#include "dist/nccl_versions.h"

#include <nccl.h>

namespace trestle::dist {

NcclVersions nccl_versions() {
  NcclVersions versions{.compiled = NCCL_VERSION_CODE};
  if (ncclGetVersion(&versions.loaded) != ncclSuccess) versions.loaded = 0;
  return versions;
}

}  // namespace trestle::dist
