// RUN: qvit-opt %s --split-input-file --delay-dequant | filecheck %s

// Past operations that only move elements, a dequantize goes with its scale's axis.

// The axis a of the scale becomes the one where the permutation names a.
func.func @transpose_per_axis(%q: tensor<2x3x4xi8>) -> tensor<4x2x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3x4xi8> -> tensor<2x3x4xf32>
  %y = qvit.transpose %x [2, 0, 1] : tensor<2x3x4xf32> -> tensor<4x2x3xf32>
  func.return %y : tensor<4x2x3xf32>
}
// CHECK-LABEL: @transpose_per_axis
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3x4xi8>)
// CHECK-NEXT:    %[[T:.*]] = qvit.transpose %[[Q]] [2, 0, 1] : tensor<2x3x4xi8> -> tensor<4x2x3xi8>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[T]] <[0.5, 0.25], axis = 1> : tensor<4x2x3xi8> -> tensor<4x2x3xf32>
// CHECK-NEXT:    return %[[Y]]

// -----

func.func @transpose_per_tensor(%q: tensor<2x3xui8>) -> tensor<3x2xf64> {
  %x = qvit.dequantize %q <0.1 : f64, zero_point = 128> : tensor<2x3xui8> -> tensor<2x3xf64>
  %y = qvit.transpose %x [1, 0] : tensor<2x3xf64> -> tensor<3x2xf64>
  func.return %y : tensor<3x2xf64>
}
// CHECK-LABEL: @transpose_per_tensor
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xui8>)
// CHECK-NEXT:    %[[T:.*]] = qvit.transpose %[[Q]] [1, 0] : tensor<2x3xui8> -> tensor<3x2xui8>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[T]] <0.1 : f64, zero_point = 128> : tensor<3x2xui8> -> tensor<3x2xf64>
// CHECK-NEXT:    return %[[Y]]

// -----

// The dequantize of another user stays where it is.
func.func @transpose_shared(%q: tensor<2x3xi8>) -> (tensor<3x2xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.transpose %x [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>
  %z = qvit.relu %x : tensor<2x3xf32>
  func.return %y, %z : tensor<3x2xf32>, tensor<2x3xf32>
}
// CHECK-LABEL: @transpose_shared
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize %[[Q]] <0.5>
// CHECK-NEXT:    %[[T:.*]] = qvit.transpose %[[Q]] [1, 0]
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[T]] <0.5>
// CHECK-NEXT:    %[[Z:.*]] = qvit.relu %[[X]]
// CHECK-NEXT:    return %[[Y]], %[[Z]]

// -----

// What is not dequantized is left alone.
func.func @transpose_float(%x: tensor<2x3xf32>) -> tensor<3x2xf32> {
  %r = qvit.relu %x : tensor<2x3xf32>
  %y = qvit.transpose %r [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}
// CHECK-LABEL: @transpose_float
// CHECK-NEXT:    %[[R:.*]] = qvit.relu
// CHECK-NEXT:    qvit.transpose %[[R]] [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>

// -----

func.func @reshape_per_tensor(%q: tensor<2x3xi8>) -> tensor<6xf32> {
  %x = qvit.dequantize %q <0.5, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.reshape %x : tensor<2x3xf32> -> tensor<6xf32>
  func.return %y : tensor<6xf32>
}
// CHECK-LABEL: @reshape_per_tensor
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[R:.*]] = qvit.reshape %[[Q]] : tensor<2x3xi8> -> tensor<6xi8>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[R]] <0.5, zero_point = 3> : tensor<6xi8> -> tensor<6xf32>
// CHECK-NEXT:    return %[[Y]]

// -----

// The axis survives between others that are merged and split, and ones in front of it.
func.func @reshape_keeps_axis(%q: tensor<2x3x2x4xi8>) -> tensor<6x1x2x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], zero_point = [1, 2], axis = 2> : tensor<2x3x2x4xi8> -> tensor<2x3x2x4xf32>
  %y = qvit.reshape %x : tensor<2x3x2x4xf32> -> tensor<6x1x2x2x2xf32>
  func.return %y : tensor<6x1x2x2x2xf32>
}
// CHECK-LABEL: @reshape_keeps_axis
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3x2x4xi8>)
// CHECK-NEXT:    %[[R:.*]] = qvit.reshape %[[Q]] : tensor<2x3x2x4xi8> -> tensor<6x1x2x2x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[R]] <[0.5, 0.25], zero_point = [1, 2], axis = 2>

// -----

// 4 is split into 2 x 2 and the scale varies along the first part only: attention heads.
func.func @reshape_splits_axis_outer(%q: tensor<3x4xi8>) -> tensor<3x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.5, 0.25, 0.25] / 3.0, axis = 1> : tensor<3x4xi8> -> tensor<3x4xf32>
  %y = qvit.reshape %x : tensor<3x4xf32> -> tensor<3x2x2xf32>
  func.return %y : tensor<3x2x2xf32>
}
// CHECK-LABEL: @reshape_splits_axis_outer
// CHECK-NEXT:    %[[R:.*]] = qvit.reshape %{{.*}} : tensor<3x4xi8> -> tensor<3x2x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[R]] <[0.5, 0.25] / 3.0, axis = 1>

// -----

// Along the second part only; the zero points too.
func.func @reshape_splits_axis_inner(%q: tensor<3x4xi8>) -> tensor<3x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 0.5, 0.25], zero_point = [1, 2, 1, 2], axis = 1> : tensor<3x4xi8> -> tensor<3x4xf32>
  %y = qvit.reshape %x : tensor<3x4xf32> -> tensor<3x2x2xf32>
  func.return %y : tensor<3x2x2xf32>
}
// CHECK-LABEL: @reshape_splits_axis_inner
// CHECK-NEXT:    %[[R:.*]] = qvit.reshape
// CHECK-NEXT:    qvit.dequantize %[[R]] <[0.5, 0.25], zero_point = [1, 2], axis = 2>

// -----

// The scale would need two axes.
func.func @reshape_splits_axis_both(%q: tensor<3x4xi8>) -> tensor<3x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0, 1.0], axis = 1> : tensor<3x4xi8> -> tensor<3x4xf32>
  %y = qvit.reshape %x : tensor<3x4xf32> -> tensor<3x2x2xf32>
  func.return %y : tensor<3x2x2xf32>
}
// CHECK-LABEL: @reshape_splits_axis_both
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<3x4xf32> -> tensor<3x2x2xf32>

// -----

// The scale varies along the first part, the zero point along the second.
func.func @reshape_splits_scale_and_zero_point(%q: tensor<4xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.5, 0.25, 0.25], zero_point = [1, 2, 1, 2], axis = 0> : tensor<4xi8> -> tensor<4xf32>
  %y = qvit.reshape %x : tensor<4xf32> -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @reshape_splits_scale_and_zero_point
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<4xf32> -> tensor<2x2xf32>

// -----

// Two factors that vary along different parts.
func.func @reshape_splits_two_factors(%q: tensor<4xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.5, 0.25, 0.25] / [3.0, 5.0, 3.0, 5.0], axis = 0> : tensor<4xi8> -> tensor<4xf32>
  %y = qvit.reshape %x : tensor<4xf32> -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @reshape_splits_two_factors
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<4xf32> -> tensor<2x2xf32>

// -----

func.func @reshape_merges_axis(%q: tensor<2x3xi8>) -> tensor<6xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.reshape %x : tensor<2x3xf32> -> tensor<6xf32>
  func.return %y : tensor<6xf32>
}
// CHECK-LABEL: @reshape_merges_axis
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<2x3xf32> -> tensor<6xf32>

// -----

// A dimension of the same length is not the same dimension: 6 takes in the axis, the 3 behind it is another.
func.func @reshape_merges_axis_before_an_equal_one(%q: tensor<2x3x3xi8>) -> tensor<6x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0], axis = 1> : tensor<2x3x3xi8> -> tensor<2x3x3xf32>
  %y = qvit.reshape %x : tensor<2x3x3xf32> -> tensor<6x3xf32>
  func.return %y : tensor<6x3xf32>
}
// CHECK-LABEL: @reshape_merges_axis_before_an_equal_one
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<2x3x3xf32> -> tensor<6x3xf32>

// -----

// Neither 3 nor 2 dimensions of the result make up the 3 of the operand: 2x3 -> 3x2.
func.func @reshape_shifts_axis(%q: tensor<2x3xi8>) -> tensor<3x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0], axis = 1> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.reshape %x : tensor<2x3xf32> -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}
// CHECK-LABEL: @reshape_shifts_axis
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.reshape %[[X]] : tensor<2x3xf32> -> tensor<3x2xf32>

// -----

// A vector of one scale, and its dimension goes.
func.func @reshape_drops_axis(%q: tensor<1x3xi8>) -> tensor<3xf32> {
  %x = qvit.dequantize %q <[0.5], zero_point = [7], axis = 0> : tensor<1x3xi8> -> tensor<1x3xf32>
  %y = qvit.reshape %x : tensor<1x3xf32> -> tensor<3xf32>
  func.return %y : tensor<3xf32>
}
// CHECK-LABEL: @reshape_drops_axis
// CHECK-NEXT:    %[[R:.*]] = qvit.reshape %{{.*}} : tensor<1x3xi8> -> tensor<3xi8>
// CHECK-NEXT:    qvit.dequantize %[[R]] <0.5, zero_point = 7> : tensor<3xi8>

// -----

func.func @slice_along_axis(%q: tensor<4x2xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0, 1.0], zero_point = [1, 2, 3, 4], axis = 0> : tensor<4x2xi8> -> tensor<4x2xf32>
  %y = qvit.slice %x axis 0 start 3 size 2 step -2 : tensor<4x2xf32> -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @slice_along_axis
// CHECK-SAME:    (%[[Q:.*]]: tensor<4x2xi8>)
// CHECK-NEXT:    %[[S:.*]] = qvit.slice %[[Q]] axis 0 start 3 size 2 step -2 : tensor<4x2xi8> -> tensor<2x2xi8>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[S]] <[1.0, 0.25], zero_point = [4, 2], axis = 0>
// CHECK-NEXT:    return %[[Y]]

// -----

func.func @slice_across_axis(%q: tensor<4x2xi8>) -> tensor<4x1xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0, 1.0], axis = 0> : tensor<4x2xi8> -> tensor<4x2xf32>
  %y = qvit.slice %x axis 1 start 1 size 1 step 1 : tensor<4x2xf32> -> tensor<4x1xf32>
  func.return %y : tensor<4x1xf32>
}
// CHECK-LABEL: @slice_across_axis
// CHECK-NEXT:    %[[S:.*]] = qvit.slice %{{.*}} axis 1 start 1 size 1 step 1 : tensor<4x2xi8> -> tensor<4x1xi8>
// CHECK-NEXT:    qvit.dequantize %[[S]] <[0.5, 0.25, 2.0, 1.0], axis = 0>

// -----

func.func @gather_along_axis(%q: tensor<3x2xi8>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0], axis = 0> : tensor<3x2xi8> -> tensor<3x2xf32>
  %i = qvit.constant dense<[2, 0, 0, 1]> : tensor<4xi32>
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<4xi32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}
// CHECK-LABEL: @gather_along_axis
// CHECK-SAME:    (%[[Q:.*]]: tensor<3x2xi8>)
// CHECK-NEXT:    %[[I:.*]] = qvit.constant
// CHECK-NEXT:    %[[G:.*]] = qvit.gather %[[Q]], %[[I]] axis 0 : (tensor<3x2xi8>, tensor<4xi32>) -> tensor<4x2xi8>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[G]] <[2.0, 0.5, 0.5, 0.25], axis = 0>
// CHECK-NEXT:    return %[[Y]]

// -----

// Behind the gathered axis there is one dimension more.
func.func @gather_in_front_of_axis(%q: tensor<3x2xi8>, %i: tensor<2x2xi32>) -> tensor<2x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<2x2xi32>) -> tensor<2x2x2xf32>
  func.return %y : tensor<2x2x2xf32>
}
// CHECK-LABEL: @gather_in_front_of_axis
// CHECK-NEXT:    %[[G:.*]] = qvit.gather %{{.*}}, %{{.*}} axis 0 : (tensor<3x2xi8>, tensor<2x2xi32>) -> tensor<2x2x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[G]] <[0.5, 0.25], axis = 2>

// -----

// The class token: an index without dimensions.
func.func @gather_one(%q: tensor<3x2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  %i = qvit.constant dense<0> : tensor<i64>
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<i64>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// CHECK-LABEL: @gather_one
// CHECK:         %[[G:.*]] = qvit.gather %{{.*}}, %{{.*}} axis 0 : (tensor<3x2xi8>, tensor<i64>) -> tensor<2xi8>
// CHECK-NEXT:    qvit.dequantize %[[G]] <[0.5, 0.25], axis = 0>

// -----

func.func @gather_behind_axis(%q: tensor<2x3xi8>, %i: tensor<2x2xi32>) -> tensor<2x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.gather %x, %i axis 1 : (tensor<2x3xf32>, tensor<2x2xi32>) -> tensor<2x2x2xf32>
  func.return %y : tensor<2x2x2xf32>
}
// CHECK-LABEL: @gather_behind_axis
// CHECK-NEXT:    %[[G:.*]] = qvit.gather
// CHECK-NEXT:    qvit.dequantize %[[G]] <[0.5, 0.25], axis = 0>

// -----

// Which scales are taken is known only at run time.
func.func @gather_unknown(%q: tensor<3x2xi8>, %i: tensor<4xi32>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0], axis = 0> : tensor<3x2xi8> -> tensor<3x2xf32>
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<4xi32>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}
// CHECK-LABEL: @gather_unknown
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.gather %[[X]]

// -----

// The scales would lie along two axes.
func.func @gather_matrix(%q: tensor<3x2xi8>) -> tensor<2x2x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25, 2.0], axis = 0> : tensor<3x2xi8> -> tensor<3x2xf32>
  %i = qvit.constant dense<[[0, 1], [2, 0]]> : tensor<2x2xi32>
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<2x2xi32>) -> tensor<2x2x2xf32>
  func.return %y : tensor<2x2x2xf32>
}
// CHECK-LABEL: @gather_matrix
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.gather %[[X]]

// -----

// Only the gathered tensor may be dequantized.
func.func @gather_of_float(%x: tensor<3x2xf32>, %i: tensor<4xi8>) -> tensor<4x2xf32> {
  %y = qvit.gather %x, %i axis 0 : (tensor<3x2xf32>, tensor<4xi8>) -> tensor<4x2xf32>
  func.return %y : tensor<4x2xf32>
}
// CHECK-LABEL: @gather_of_float
// CHECK-NEXT:    qvit.gather %{{.*}}, %{{.*}} axis 0 : (tensor<3x2xf32>, tensor<4xi8>) -> tensor<4x2xf32>

// -----

func.func @broadcast_across_axis(%q: tensor<1x2xi8>) -> tensor<4x3x2xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 1> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.broadcast %x : tensor<1x2xf32> -> tensor<4x3x2xf32>
  func.return %y : tensor<4x3x2xf32>
}
// CHECK-LABEL: @broadcast_across_axis
// CHECK-NEXT:    %[[B:.*]] = qvit.broadcast %{{.*}} : tensor<1x2xi8> -> tensor<4x3x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[B]] <[0.5, 0.25], axis = 2>

// -----

// One scale, repeated.
func.func @broadcast_along_axis(%q: tensor<1x2xi8>) -> tensor<3x2xf32> {
  %x = qvit.dequantize %q <[0.5] * 3.0, zero_point = [7], axis = 0> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.broadcast %x : tensor<1x2xf32> -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}
// CHECK-LABEL: @broadcast_along_axis
// CHECK-NEXT:    %[[B:.*]] = qvit.broadcast %{{.*}} : tensor<1x2xi8> -> tensor<3x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[B]] <0.5 * 3.0, zero_point = 7> : tensor<3x2xi8>

// -----

func.func @concat_same(%a: tensor<1x2xi8>, %b: tensor<3x2xi8>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = 3> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.dequantize %b <0.5, zero_point = 3> : tensor<3x2xi8> -> tensor<3x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @concat_same
// CHECK-SAME:    (%[[A:.*]]: tensor<1x2xi8>, %[[B:.*]]: tensor<3x2xi8>)
// CHECK-NEXT:    %[[C:.*]] = qvit.concat %[[A]], %[[B]] axis 0 : (tensor<1x2xi8>, tensor<3x2xi8>) -> tensor<4x2xi8>
// CHECK-NEXT:    %[[Z:.*]] = qvit.dequantize %[[C]] <0.5, zero_point = 3>
// CHECK-NEXT:    return %[[Z]]

// -----

// Vectors along another axis stay as they are where they are equal.
func.func @concat_same_vectors(%a: tensor<1x2xi8>, %b: tensor<3x2xi8>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 1> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.dequantize %b <[0.5, 0.25], axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @concat_same_vectors
// CHECK-NEXT:    %[[C:.*]] = qvit.concat %{{.*}} axis 0 : (tensor<1x2xi8>, tensor<3x2xi8>) -> tensor<4x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[C]] <[0.5, 0.25], axis = 1>

// -----

// One number an index, also where an operand has only one for all, or a factor more than the others.
func.func @concat_joins(%a: tensor<1x2xi8>, %b: tensor<2x2xi8>) -> tensor<3x2xf32> {
  %x = qvit.dequantize %a <0.5 * 3.0 / 7.0, zero_point = 3> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.dequantize %b <[0.25, 2.0], axis = 0> : tensor<2x2xi8> -> tensor<2x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<3x2xf32>
  func.return %z : tensor<3x2xf32>
}
// CHECK-LABEL: @concat_joins
// CHECK-NEXT:    %[[C:.*]] = qvit.concat %{{.*}} axis 0 : (tensor<1x2xi8>, tensor<2x2xi8>) -> tensor<3x2xi8>
// CHECK-NEXT:    qvit.dequantize %[[C]] <[0.5, 0.25, 2.0] * [3.0, 1.0, 1.0] / [7.0, 1.0, 1.0], zero_point = [3, 0, 0], axis = 0>

// -----

// Equal vectors along the concatenated axis are not one vector, but two in a row.
func.func @concat_same_along_axis(%a: tensor<2xi8>, %b: tensor<2xi8>) -> tensor<4xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2xi8> -> tensor<2xf32>
  %y = qvit.dequantize %b <[0.5, 0.25], axis = 0> : tensor<2xi8> -> tensor<2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<2xf32>, tensor<2xf32>) -> tensor<4xf32>
  func.return %z : tensor<4xf32>
}
// CHECK-LABEL: @concat_same_along_axis
// CHECK-NEXT:    %[[C:.*]] = qvit.concat
// CHECK-NEXT:    qvit.dequantize %[[C]] <[0.5, 0.25, 0.5, 0.25], axis = 0>

// -----

func.func @concat_with_zeros(%a: tensor<1x2xui8>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %a <0.5, zero_point = 7> : tensor<1x2xui8> -> tensor<1x2xf32>
  %y = qvit.constant dense<0.0> : tensor<3x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @concat_with_zeros
// CHECK:         %[[P:.*]] = qvit.constant dense<7> : tensor<3x2xui8>
// CHECK-NEXT:    %[[C:.*]] = qvit.concat %{{.*}}, %[[P]] axis 0 : (tensor<1x2xui8>, tensor<3x2xui8>) -> tensor<4x2xui8>
// CHECK-NEXT:    qvit.dequantize %[[C]] <0.5, zero_point = 7>

// -----

// One element that is not zero: the codes may not hold it.
func.func @concat_with_a_number(%a: tensor<1x2xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.constant dense<[[0.0, 0.1]]> : tensor<1x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<2x2xf32>
  func.return %z : tensor<2x2xf32>
}
// CHECK-LABEL: @concat_with_a_number
// CHECK:         qvit.concat %{{.*}} -> tensor<2x2xf32>

// -----

func.func @concat_with_float(%a: tensor<1x2xi8>, %y: tensor<3x2xf32>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @concat_with_float
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.concat %[[X]], %{{.*}} -> tensor<4x2xf32>

// -----

func.func @concat_types_differ(%a: tensor<1x2xi8>, %b: tensor<3x2xui8>) -> tensor<4x2xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x2xui8> -> tensor<3x2xf32>
  %z = qvit.concat %x, %y axis 0 : (tensor<1x2xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
  func.return %z : tensor<4x2xf32>
}
// CHECK-LABEL: @concat_types_differ
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.concat %[[X]], %[[Y]]

// -----

func.func @concat_across_other_axis(%a: tensor<2x1xi8>, %b: tensor<2x3xi8>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <[0.5, 0.25], axis = 0> : tensor<2x1xi8> -> tensor<2x1xf32>
  %y = qvit.dequantize %b <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %z = qvit.concat %x, %y axis 1 : (tensor<2x1xf32>, tensor<2x3xf32>) -> tensor<2x4xf32>
  func.return %z : tensor<2x4xf32>
}
// CHECK-LABEL: @concat_across_other_axis
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.concat %[[X]], %[[Y]]

// -----

// Operations one after another: the dequantize goes through all of them.
func.func @chain(%q: tensor<1x4x2xi8>) -> tensor<2x2x1xf32> {
  %x = qvit.dequantize %q <[0.5, 0.5, 0.25, 0.25], axis = 1> : tensor<1x4x2xi8> -> tensor<1x4x2xf32>
  %r = qvit.reshape %x : tensor<1x4x2xf32> -> tensor<2x2x2xf32>
  %t = qvit.transpose %r [2, 1, 0] : tensor<2x2x2xf32> -> tensor<2x2x2xf32>
  %s = qvit.slice %t axis 2 start 1 size 1 step 1 : tensor<2x2x2xf32> -> tensor<2x2x1xf32>
  func.return %s : tensor<2x2x1xf32>
}
// CHECK-LABEL: @chain
// CHECK-NEXT:    qvit.reshape
// CHECK-NEXT:    qvit.transpose
// CHECK-NEXT:    %[[S:.*]] = qvit.slice
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[S]] <[0.25], axis = 2>
// CHECK-NEXT:    return %[[Y]]
