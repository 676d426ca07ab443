// TRESTLE_MPI(call): throws Error(ExitCode::environment) with the library's own words. For the
// .cpp files of dist/ only: it brings mpi.h.
#pragma once
#include <mpi.h>

namespace trestle::dist {

/// The library's text for one of its error codes.
const char* mpi_error_text(int code, char (&buffer)[MPI_MAX_ERROR_STRING]);

[[noreturn]] void mpi_failed(int code, const char* expression, const char* file, int line);

}  // namespace trestle::dist

#define TRESTLE_MPI(expression)                                                       \
  do {                                                                                \
    const int trestle_mpi_code = (expression);                                        \
    if (trestle_mpi_code != MPI_SUCCESS) [[unlikely]]                                 \
      ::trestle::dist::mpi_failed(trestle_mpi_code, #expression, __FILE__, __LINE__); \
  } while (false)
