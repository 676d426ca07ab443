# Run by the build: writes OUT, a source file with the lines of JSON (models/text/sana_instruction.json),
# so that the program carries them and looks for no file.
#   cmake -DJSON=... -DOUT=... -P cmake/Instruction.cmake
file(READ "${JSON}" json)
string(JSON count LENGTH "${json}" lines)
math(EXPR last "${count} - 1")
set(literals "")
foreach(i RANGE ${last})
  string(JSON line GET "${json}" lines ${i})
  string(APPEND literals "      R\"line(${line})line\",\n")
endforeach()
file(CONFIGURE OUTPUT "${OUT}" @ONLY CONTENT [[
// Written by cmake/Instruction.cmake; do not edit.
#include "models/text/prompt_tokens.h"

namespace trestle::models::text {

std::vector<std::string> sana_instruction() {
  return {
@literals@  };
}

}  // namespace trestle::models::text
]])
