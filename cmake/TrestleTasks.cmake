# Every folder in trainers/ that holds a task.cpp is a task; so is every tests/tasks/*/ in a test build.
# The registry that names them is generated: static registrars in static libraries get dropped by
# the linker, and a list kept by hand would make a new trainer an edit elsewhere.
function(trestle_find_tasks out_names root)
  file(GLOB task_files CONFIGURE_DEPENDS "${root}/*/task.cpp")
  set(names "")
  foreach(file ${task_files})
    get_filename_component(folder "${file}" DIRECTORY)
    get_filename_component(name "${folder}" NAME)
    list(APPEND names ${name})
  endforeach()
  set(${out_names} ${names} PARENT_SCOPE)
endfunction()

# Writes task_registry.cpp for the tasks named: each folder defines trestle::trainers::<name>::task_kind().
function(trestle_write_task_registry file)
  set(declarations "")
  set(entries "")
  foreach(name ${ARGN})
    string(APPEND declarations "namespace ${name} {\nconst TaskKind& task_kind();\n}\n")
    string(APPEND entries "      &${name}::task_kind(),\n")
  endforeach()
  file(CONFIGURE OUTPUT "${file}" CONTENT
"// Written by cmake/TrestleTasks.cmake from the folders in trainers/; do not edit.
#include \"trainers/task.h\"

namespace trestle::trainers {
${declarations}
std::span<const TaskKind* const> task_kinds() {
  static const std::vector<const TaskKind*> kinds = {
${entries}  };
  return kinds;
}

}  // namespace trestle::trainers
" @ONLY)
endfunction()
