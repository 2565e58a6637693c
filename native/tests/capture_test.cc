// Captured layers, and sets of page runs, which they are planned with.
#include "memory/capture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <tuple>

#include "memory/gpa.h"
#include "memory/page_scan.h"
#include "tests/test.h"

namespace vmfork {
namespace {

void Put(const PrivateView& view, uint64_t page, char value) {
  view.Data()[page * kPageSize] = static_cast<std::byte>(value);
}

std::vector<PageRun> Owned(const PrivateView& view) {
  auto runs = FindOwnedPages(std::span(view.Data(), view.Size()));
  EXPECT_TRUE(runs.has_value());
  return runs ? *runs : std::vector<PageRun>();
}

void ExpectShown(const std::shared_ptr<const Image>& image, const PrivateView& view) {
  auto copy = PrivateView::Map(image);
  EXPECT_EQ(std::memcmp(copy->Data(), view.Data(), view.Size()), 0);
}

// Calls `meanwhile` when the layer has been prepared.
template <typename Meanwhile>
Result<std::shared_ptr<const Image>> CaptureImage(const PrivateView& view, WorkerPool* helpers,
                                                  Meanwhile meanwhile) {
  VMFORK_TRY(capture, Capture::Prepare(view));
  meanwhile();
  VMFORK_TRY(image, capture.Take(helpers));
  VMFORK_CHECK(capture.Finish());
  return image;
}

Result<std::shared_ptr<const Image>> CaptureImage(const PrivateView& view,
                                                  WorkerPool* helpers = nullptr) {
  return CaptureImage(view, helpers, [] {});
}

uint64_t AllocatedPages(const Extent& extent) {
  struct stat status{};
  EXPECT_EQ(::fstat(extent.file->Get(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512 / kPageSize;
}

std::vector<PageRun> ToRuns(const std::vector<bool>& pages) {
  std::vector<PageRun> runs;
  for (uint64_t i = 0; i < pages.size(); ++i)
    if (pages[i]) AppendRun(runs, {i * kPageSize, kPageSize});
  return runs;
}

bool Equal(const std::vector<PageRun>& one, const std::vector<PageRun>& other) {
  return std::ranges::equal(one, other, [](const PageRun& a, const PageRun& b) {
    return a.start == b.start && a.size == b.size;
  });
}

TEST(SetsOfRunsEqualPageByPageModel) {
  constexpr size_t kPages = 24;
  std::minstd_rand random(7);
  for (int round = 0; round < 2000; ++round) {
    const unsigned density = 1 + random() % 8;
    std::vector<bool> one(kPages), other(kPages), united(kPages), left(kPages), common(kPages);
    for (size_t i = 0; i < kPages; ++i) {
      one[i] = random() % 9 < density;
      other[i] = random() % 9 < 9 - density;
      united[i] = one[i] || other[i];
      left[i] = one[i] && !other[i];
      common[i] = one[i] && other[i];
    }
    const auto a = ToRuns(one), b = ToRuns(other);
    EXPECT_TRUE(Equal(Unite(a, b), ToRuns(united)));
    EXPECT_TRUE(Equal(Subtract(a, b), ToRuns(left)));
    EXPECT_TRUE(Equal(Intersect(a, b), ToRuns(common)));
  }
}

TEST(CaptureOverNothingIsOneExtentWithHoles) {
  auto view = PrivateView::Map(Image::Zero(1024 * kPageSize));
  Put(*view, 10, 'a');
  Put(*view, 700, 'b');
  view->Data()[800 * kPageSize] = std::byte{0};  // touched, but zero
  auto image = CaptureImage(*view);
  EXPECT_EQ((*image)->Extents().size(), 1u);
  auto copy = PrivateView::Map(*image);
  EXPECT_EQ(std::memcmp(copy->Data(), view->Data(), view->Size()), 0);
}

TEST(CaptureOfCapturesShowsEachGeneration) {
  auto view = PrivateView::Map(Image::Zero(4096 * kPageSize));
  for (int generation = 0; generation < 5; ++generation) {
    for (uint64_t page = static_cast<uint64_t>(generation); page < 4096; page += 257) {
      Put(*view, page, static_cast<char>('A' + generation));
    }
    auto image = CaptureImage(*view);
    EXPECT_TRUE(image.has_value());
    auto copy = PrivateView::Map(*image);
    EXPECT_EQ(std::memcmp(copy->Data(), view->Data(), view->Size()), 0);
    EXPECT_TRUE(view->GoOnOver(*image).has_value());
    EXPECT_EQ(std::memcmp(copy->Data(), view->Data(), view->Size()), 0);
    EXPECT_EQ(FindOwnedPages(std::span(view->Data(), view->Size()))->size(), 0u);
  }
}

TEST(ExtentsStayBoundedOverGenerations) {
  constexpr uint64_t kPages = 8192;
  auto view = PrivateView::Map(Image::Zero(kPages * kPageSize));
  std::minstd_rand random(1);
  WorkerPool helpers(2, "test");
  size_t most = 0;
  for (int generation = 0; generation < 200; ++generation) {
    for (int i = 0; i < 12; ++i) Put(*view, random() % kPages, static_cast<char>('a' + i));
    auto image = CaptureImage(*view, &helpers);
    EXPECT_TRUE(image.has_value());
    most = std::max(most, (*image)->Extents().size());
    if (generation % 20 == 19) {
      auto copy = PrivateView::Map(*image);
      EXPECT_EQ(std::memcmp(copy->Data(), view->Data(), view->Size()), 0);
    }
    EXPECT_TRUE(view->GoOnOver(*image).has_value());
  }
  EXPECT_TRUE(most > 8 && most <= kMaxExtents);
}

TEST(CapturedLayerIsSealed) {
  auto view = PrivateView::Map(Image::Zero(16 * kPageSize));
  Put(*view, 1, 'a');
  auto image = CaptureImage(*view);
  const int fd = (*image)->Extents()[0].file->Get();
  EXPECT_EQ(::pwrite(fd, "x", 1, 0), -1);
  EXPECT_EQ(::ftruncate(fd, 0), -1);
}

// Of a view whose layers have to hold clean pages: alternately written ones and others.
PrivateView Alternating(uint64_t pages) {
  auto view = PrivateView::Map(Image::Zero(pages * kPageSize));
  std::memset(view->Data(), 'p', view->Size());
  auto image = CaptureImage(*view);
  EXPECT_TRUE(view->GoOnOver(*image).has_value());
  for (uint64_t page = 0; page < pages; page += 2) Put(*view, page, 'w');
  return std::move(*view);
}

TEST(WhatIsWrittenAfterThePreparationIsInTheImage) {
  const PrivateView view = Alternating(512);
  const auto image = CaptureImage(view, nullptr, [&view] {
    Put(view, 2, 'x');                                       // written before
    Put(view, 5, 'y');                                       // copied as a clean one
    std::memset(view.Data() + 7 * kPageSize, 0, kPageSize);  // the same, and zero now
    std::memset(view.Data() + 8 * kPageSize, 0, kPageSize);  // written before, and zero now
    ::madvise(view.Data() + 10 * kPageSize, kPageSize, MADV_DONTNEED);  // the image's again
  });
  EXPECT_TRUE(image.has_value());
  ExpectShown(*image, view);
}

TEST(RandomWritesAfterThePreparationAreInTheImage) {
  constexpr uint64_t kPages = 2048;
  auto view = PrivateView::Map(Image::Zero(kPages * kPageSize));
  std::minstd_rand random(3);
  WorkerPool helpers(2, "test");
  const auto change = [&](int times) {
    for (int i = 0; i < times; ++i) {
      const uint64_t page = random() % kPages;
      std::byte* const bytes = view->Data() + page * kPageSize;
      switch (random() % 4) {
        case 0:
          std::memset(bytes, 0, kPageSize);
          break;
        case 1:
          ::madvise(bytes, kPageSize, MADV_DONTNEED);
          break;
        default:
          std::memset(bytes, static_cast<int>(random() % 255), kPageSize);
      }
    }
  };
  for (int generation = 0; generation < 60; ++generation) {
    change(static_cast<int>(random() % 300));
    auto image = CaptureImage(*view, &helpers, [&] { change(static_cast<int>(random() % 60)); });
    EXPECT_TRUE(image.has_value() && (*image)->Extents().size() <= kMaxExtents);
    ExpectShown(*image, *view);
    EXPECT_TRUE(view->GoOnOver(*image).has_value());
    ExpectShown(*image, *view);
    EXPECT_TRUE(Owned(*view).empty());
  }
}

TEST(GoingOnKeepsThePagesThatTheLayerDoesNotHold) {
  constexpr uint64_t kPages = 1024;
  auto view = PrivateView::Map(Image::Zero(kPages * kPageSize));
  std::memset(view->Data(), 'p', view->Size());
  auto image = CaptureImage(*view);
  EXPECT_TRUE(view->GoOnOver(*image).has_value());
  volatile std::byte sink = view->Data()[900 * kPageSize];
  sink = view->Data()[5 * kPageSize];
  std::ignore = sink;
  Put(*view, 5, 'w');
  EXPECT_TRUE(view->GoOnOver(*CaptureImage(*view)).has_value());
  const auto present = FindPresentPages(std::span(view->Data(), view->Size()));
  const PageRun kept{900 * kPageSize, kPageSize}, captured{5 * kPageSize, kPageSize};
  EXPECT_EQ(Intersect(*present, std::span(&kept, 1)).size(), 1u);
  EXPECT_TRUE(Intersect(*present, std::span(&captured, 1)).empty());
}

TEST(PagesThatAreZeroTakeNoMemory) {
  auto view = PrivateView::Map(Image::Zero(1024 * kPageSize));
  std::memset(view->Data(), 0, view->Size() / 2);
  Put(*view, 3, 'a');
  auto image = CaptureImage(*view);
  EXPECT_EQ(AllocatedPages((*image)->Extents()[0]), 1u);
  ExpectShown(*image, *view);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
