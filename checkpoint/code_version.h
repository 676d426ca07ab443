// Which code this is: "v1.2-14-gabcdef0-dirty" as git describes it at the build, or the version
// where git does not know. cmake/CodeVersion.cmake writes the definition. LOCAL. THREADS: any.
#pragma once
#include <string_view>

namespace trestle::checkpoint {

std::string_view code_version();

}  // namespace trestle::checkpoint
