# Run at each build: writes OUT, a source file that says which code this is, as git describes it, or
# VERSION where git does not know. The file changes only when what it says does.
#   cmake -DROOT=... -DOUT=... -DVERSION=... -P cmake/CodeVersion.cmake
execute_process(COMMAND git -C "${ROOT}" rev-parse --show-prefix
  RESULT_VARIABLE failed OUTPUT_VARIABLE prefix ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
if(failed EQUAL 0 AND prefix STREQUAL "")  # not a folder of somebody else's repository
  execute_process(COMMAND git -C "${ROOT}" describe --always --dirty --tags
    RESULT_VARIABLE failed OUTPUT_VARIABLE code ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT failed EQUAL 0 OR NOT code)
  set(code "${VERSION}")
endif()
file(CONFIGURE OUTPUT "${OUT}" @ONLY CONTENT [[
#include "checkpoint/code_version.h"

namespace trestle::checkpoint {

std::string_view code_version() { return "@code@"; }

}  // namespace trestle::checkpoint
]])
