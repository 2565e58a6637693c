// Files of a test that go with it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/test.h"

namespace vmfork {

// A folder that goes with the test.
class Folder {
 public:
  Folder() { EXPECT_TRUE(::mkdtemp(path_.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_ = "/tmp/vmfork-test-XXXXXX";
};

}  // namespace vmfork
