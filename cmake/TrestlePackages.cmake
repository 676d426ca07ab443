# Torch and the CUDA toolkit come from a Python environment, so that a machine needs neither
# installed; launch/setup makes it. Everything else is the system's.
find_program(TRESTLE_PYTHON python3 PATHS "${TRESTLE_VENV}/bin" NO_DEFAULT_PATH)
if(NOT TRESTLE_PYTHON)
  message(FATAL_ERROR "${TRESTLE_VENV} has no bin/python3 (torch and the CUDA toolkit live there). "
                      "Run launch/setup, or set TRESTLE_VENV to an environment that has torch 2.11.")
endif()
execute_process(
  COMMAND "${TRESTLE_PYTHON}" -c "import sysconfig; print(sysconfig.get_path('purelib'))"
  OUTPUT_VARIABLE TRESTLE_SITE_PACKAGES OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(TRESTLE_CUDA_ROOT "${TRESTLE_SITE_PACKAGES}/nvidia/cu13")

if(NOT DEFINED ENV{TORCH_CUDA_ARCH_LIST})
  set(ENV{TORCH_CUDA_ARCH_LIST} "8.0;9.0")  # torch asks a GPU otherwise, and there may be none
endif()
if(EXISTS "${TRESTLE_CUDA_ROOT}/bin/nvcc")
  # Torch's package wants the toolkit even where our own kernels are off.
  set(CMAKE_CUDA_COMPILER "${TRESTLE_CUDA_ROOT}/bin/nvcc" CACHE FILEPATH "")
  set(CUDAToolkit_ROOT "${TRESTLE_CUDA_ROOT}" CACHE PATH "")
  set(CUDA_TOOLKIT_ROOT_DIR "${TRESTLE_CUDA_ROOT}" CACHE PATH "")
  set(ENV{CUDA_HOME} "${TRESTLE_CUDA_ROOT}")
  set(ENV{CUDA_PATH} "${TRESTLE_CUDA_ROOT}")
endif()
if(TRESTLE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES "80;90" CACHE STRING "")
  set(CMAKE_CUDA_STANDARD 20)
  enable_language(CUDA)
endif()

list(APPEND CMAKE_PREFIX_PATH "${TRESTLE_SITE_PACKAGES}/torch/share/cmake")
find_package(Torch REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_path(TOMLPLUSPLUS_INCLUDE toml++/toml.h REQUIRED)
find_path(XXHASH_INCLUDE xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)

# torch's folder carries its own fmt; files that see torch use that one, header-only.
add_library(trestle_torch INTERFACE)
target_include_directories(trestle_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(trestle_torch INTERFACE ${TORCH_LIBRARIES})
# NDEBUG in every build, as the library was built: without it some of torch's classes have members in
# their headers (at::RecordFunction) that the library's do not have.
target_compile_definitions(trestle_torch INTERFACE FMT_HEADER_ONLY NDEBUG)
# at::parallel_for is a template of torch's header: without OpenMP here it runs on one thread in our
# kernels, whatever torch itself was built with. libgomp is torch's own copy, so that there is one
# pool of threads. (clang's OpenMP is another library with a pool of its own: left out.)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(trestle_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  target_link_libraries(trestle_torch INTERFACE "${TRESTLE_SITE_PACKAGES}/torch/lib/libgomp.so.1")
else()
  message(WARNING "Kernels of this project run on one thread each (${CMAKE_CXX_COMPILER_ID} "
                  "brings an OpenMP that is not torch's). Use g++ where CPU speed counts.")
endif()
# libtorch.so exports std::filesystem functions of another compiler, and remove_all then jumps to
# nowhere: the system's libstdc++ has to be asked first.
target_link_options(trestle_torch INTERFACE "LINKER:--push-state,--no-as-needed,-lstdc++,--pop-state")

# The NCCL that torch loads: two of them in one process would not know of each other.
if(TRESTLE_CUDA)
  if(NOT EXISTS "${TRESTLE_SITE_PACKAGES}/nvidia/nccl/lib/libnccl.so.2")
    message(FATAL_ERROR "${TRESTLE_VENV} has no NCCL (nvidia/nccl, which torch for CUDA brings along). "
                        "Run launch/setup, or configure with -DTRESTLE_CUDA=OFF.")
  endif()
  add_library(trestle_nccl INTERFACE)
  set(TRESTLE_NCCL_HEADERS "${TRESTLE_SITE_PACKAGES}/nvidia/nccl/include" "${TRESTLE_CUDA_ROOT}/include")
  target_include_directories(trestle_nccl SYSTEM INTERFACE ${TRESTLE_NCCL_HEADERS})
  target_link_libraries(trestle_nccl INTERFACE "${TRESTLE_SITE_PACKAGES}/nvidia/nccl/lib/libnccl.so.2")
endif()

add_library(trestle_mpi INTERFACE)
target_link_libraries(trestle_mpi INTERFACE MPI::MPI_C)

add_library(trestle_hdf5 INTERFACE)
target_include_directories(trestle_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(trestle_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

add_library(trestle_xxhash INTERFACE)
target_include_directories(trestle_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE})
target_link_libraries(trestle_xxhash INTERFACE ${XXHASH_LIBRARY})

# The installed program finds torch where it was linked from (CMake's own rule for that leaves out
# folders inside the source tree, where .venv is).
set(CMAKE_INSTALL_RPATH "${TRESTLE_SITE_PACKAGES}/torch/lib" "${TRESTLE_CUDA_ROOT}/lib"
    "${TRESTLE_SITE_PACKAGES}/nvidia/nccl/lib")
include(GNUInstallDirs)
